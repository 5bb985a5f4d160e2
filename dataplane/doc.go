// Package dataplane is the engine: it takes frames from TAPs, and packets from
// TUNs, to the underlay and back.
//
// # The road out (outbound.go), on the outbound thread of a worker
//
//  1. run: Device.ReadBatch fills an arena; a superframe comes in one piece,
//     with Headroom before it.
//  2. forward: the frame's Ethernet header is checked, its source withdrawn
//     from what was learned of other hosts, its destination looked up in the
//     network's FDB.
//     On a network that suppresses, an ARP request or neighbour solicitation
//     that its neighbours answer ends here (suppress.go).
//  3. An unknown or group destination goes to flood: the flood list, or the
//     underlay's multicast group.
//  4. Nobody to send to: a drop with a name.
//  5. inspect: the flow is told, the checksum finished, and the metadata of a
//     superframe checked against its bytes (segment.go).
//  6. deliver: what the path to a destination is known not to take is dropped,
//     and its sender told (pathmtu.go). To a destination whose wire takes
//     superframes uncut (uplink_linux.go) a superframe goes at once as it is,
//     and is done.
//  7. encapsulate: once for all other destinations, the VXLAN header is put
//     before the frame, or before each segment of a superframe, whose payload
//     stays where it was read.
//  8. queue: one Send per destination, or one more payload of the run before.
//  9. send: Wire.WriteBatch; what it refused is a drop with a name, and an
//     EMSGSIZE the peer's path MTU, of which the sender is told.
//
// # The road in (inbound.go), on the inbound thread of a worker
//
//  1. run: Wire.ReadBatch receives datagrams, or runs of them.
//  2. datagram: a run is taken apart.
//  3. payload: the VXLAN header is parsed and gives the network.
//  4. The sender is admitted, before anything behind the header is looked at.
//  5. deliver: the inner Ethernet header is checked, a congestion mark carried
//     in. A probe ends here (probe.go).
//  6. learn: the source MAC is bound to the sender.
//  7. queue: the vnet header tells the kernel which checksum to finish and
//     where to cut (describe, in segment.go).
//  8. flush: Device.WriteBatch; what it refused is a drop with a name.
//
// A frame from the wire goes to a TAP and nowhere else (split horizon): VXLAN
// has no TTL to end a loop.
//
// # The road of a packet out (packetout.go), from a tunnel's TUN by IP-in-IP
//
//  1. run: as for frames; what is read has no Ethernet header.
//  2. forward: the inner IPv4 header is checked, and that hops are left.
//  3. The destination's longest prefix among the tunnel's routes gives the peer.
//  4. What is from or for an end of the tunnel itself would run in a circle.
//  5. inspect: the flow is told, the checksum finished, and a superframe checked.
//  6. encapsulate: nothing goes before the packet but, in a superframe, each
//     segment's own headers: the outer header is the wire's (ipipwire_linux.go).
//  7. queue: one Send for the packet, or for all segments of a superframe.
//  8. send: as for frames.
//
// # The road of a packet in (packetin.go)
//
//  1. run: Wire.ReadBatch receives packets without their outer headers.
//  2. admit: the sender gives the tunnel, and is admitted, before anything inside
//     is looked at.
//  3. deliver: the inner IPv4 header is checked.
//  4. What claims to be from ourselves is dropped, and where it is asked for what
//     does not route back to the sender.
//  5. A congestion mark is carried in.
//  6. enqueue, and all that follows, is the road of frames.
//
// # Mirrors
//
// A mirror (mirror.go) shows frames as they pass a point of the road, as a
// switch's port mirroring does: tap-in after run has read, wire-in after payload
// has found the network, wire-out and tap-out after send and flush know what was
// taken, dropped where a drop is counted. Its rings (mirrorring.go), one a thread,
// lose what nobody reads. Without a mirror the road pays one load a batch and one
// comparison a frame (mirrorroad.go).
//
// # Threads
//
// A worker is two OS threads, one each way (thread_linux.go), which sleep in
// epoll and run each batch to its end. They share with each other and with the
// door only atomics: the catalogue of networks and tunnels, the policy, FDB or
// routes, and peers of each (package fdb). In the steady state nothing on the road locks, allocates, logs or
// copies payload. What the door takes away it unpublishes, waits until every
// thread has come round (quiesce), and closes.
//
// # The door
//
// Control reaches the road through Engine.Apply, which takes plain data
// (desired.go), and looks at it through Stats, FDB and Info (observe.go), WatchFDB
// (watch.go) and Mirror. Explain (explain.go) says what the roads would do with a
// frame, by their own functions.
package dataplane
