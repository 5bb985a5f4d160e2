// Package netlab builds throw-away hosts on this machine: network namespaces
// joined by veth pairs and bridges, with containers on them and the kernel's
// own vxlan devices as peers. It serves the lab verb, the interop tests and the
// benchmarks.
//
// A Lab is a set of named namespaces ot-<lab>-<host> in /run/netns, so that
// `ip netns` shows them and a later process can find and remove them after a
// crash. No namespace has a route out of its lab. Addresses are those kept for
// documentation: 192.0.2.0/24 and 2001:db8:0:1::/64 on the underlay,
// 198.51.100.0/24, 203.0.113.0/24 and 2001:db8::/32 in containers.
//
//	      host a                        host b
//	┌──────────────────┐          ┌──────────────────┐
//	│ vx0 ── br0       │          │       br0 ── vx0 │
//	│         │        │          │        │         │
//	│ eth0    │ a1     │          │     b1 │    eth0 │
//	└──┬──────┼────────┘          └────────┼──────┬──┘
//	   │   container a1               container b1 │
//	   └──────────────── underlay ─────────────────┘
//
// Everything is done through netlink, ioctl and /proc; no program is started.
// Package guest, which adds a host with another kernel to a lab, starts QEMU.
// It needs root.
package netlab
