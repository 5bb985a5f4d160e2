// Package dataplane is the engine: it takes frames from TAPs, and packets from TUNs, to
// the underlay and back.
//
// # Paths
//
// There are four, each of one type in one file whose head lists its steps:
//
//	tx_vxlan.go  a frame from a TAP, by VXLAN
//	tx_ipip.go   a packet from a TUN, by IP-in-IP
//	rx_vxlan.go  a datagram from the underlay, to a TAP
//	rx_ipip.go   a packet from the underlay, to a TUN
//
// They decide; what they have in common does the rest. A sender (sender.go) queues sends,
// with header slots beside the payload, and hands them to netio.Conn.WriteBatch. A
// deliverer (deliverer.go) joins segments (gro.go), queues frames and hands them to
// netio.Device.WriteBatch. GSO packets are planned and cut in gso.go, path MTUs kept in
// path_mtu.go, packets fragmented in fragment.go.
//
// A frame from the underlay goes to a TAP and nowhere else (split horizon): VXLAN has no
// TTL to end a loop.
//
// # Input and output
//
// Devices, connections and the wait for them are a netio.Backend's, which Options has.
// The engine does not name the system it runs on.
//
// # Mirrors
//
// A mirror (mirror.go) shows frames as they pass a point of the path, as a switch's port
// mirroring does: tap-in after a frame was read, wire-in after its network was found,
// wire-out and tap-out once it is known what was taken, dropped where a drop is counted.
// Its rings (mirror_ring.go), one a thread, lose what is not read in time. Without a
// mirror the path pays one load a batch and one comparison a frame (mirror_path.go).
//
// # Threads
//
// A worker is two OS threads, one each way (thread.go), which wait in a netio.Poller and
// run each batch to its end. They share only atomics with each other and with control:
// the snapshot of networks and tunnels, and of each the policy, the FDB or routes, and the
// peers (package fdb). In the steady state nothing on a path locks, allocates, logs or
// copies payload. Control unpublishes what is removed, waits until every thread has begun
// a new round (quiesce), and closes it then.
//
// # Control
//
// Control reaches the engine through Engine.Apply, which takes plain data (desired.go),
// and reads it through Stats, FDB and Info (observe.go), WatchFDB (watch.go) and Mirror.
// Explain (explain.go) says what the paths would do with a frame, by their own functions.
package dataplane
