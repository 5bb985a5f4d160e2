// Package netiotest holds twins of a backend's devices and connections that need neither
// privilege nor a network: TAPs that a test injects frames into and collects
// them from, and an underlay in memory that joins several engines and may lose,
// repeat and reorder what it carries.
//
// The twins behave as the host's backend does where an engine could see it: their
// file descriptors are eventfds that epoll wakes on, memory handed out is
// overwritten when it may be reused, a name or port that is taken is EBUSY or
// EADDRINUSE. They check what the engine hands them against the contracts of
// package dataplane and report violations through testing.TB.
package netiotest
