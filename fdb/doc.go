// Package fdb holds the forwarding state of the overlay and nothing else: which
// MAC of a VXLAN network lives behind which remote VTEP (Table), which prefix of
// an IP-in-IP tunnel behind which peer (Routes), and which peers there are, who
// gets a copy of BUM frames and whom we take frames from (Peers). It opens no
// socket, starts no goroutine and reads no clock but its own (Clock), which
// the engine advances on its tick.
//
// # Who may call what
//
// Two kinds of callers meet here. The path (Lookup, Learn, Forget, Admit, Addr,
// Flood) runs once a frame on every worker at the same time: it never waits,
// takes no lock and does not allocate, with one exception that Admit names. The
// control side (everything else) may wait for other writers, and copies.
//
// Readers take atomics only. Writers are one at a time, by a tryLock taken with
// compare-and-swap: control waits for it, and gives it back after a bounded
// stretch; the path tries and lets the frame go on unlearned when it is taken,
// for the next frame teaches the same.
//
// # Removing a peer
//
// A frame in flight may carry the PeerID of a peer that was just removed, and
// learn a MAC behind it. An ID is therefore taken out of use in this order:
//
//  1. Peers.Set or Peers.Expire removes the peer and returns its ID. Admit no
//     longer knows it; Addr still answers, so that frames in flight resolve.
//  2. Table.Flush the entries that point to it: its traffic floods from now on.
//  3. Let a tick pass in which every worker has finished the batch it was in.
//  4. Table.Flush again, for what those batches learned.
//  5. Peers.Release gives the ID back, and a new peer may get it.
package fdb
