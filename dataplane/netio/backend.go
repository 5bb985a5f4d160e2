// Package netio is what the engine asks of the outside: devices that frames are read
// from and written to, connections to the underlay, and the backend that opens both.
//
// Two backends stand below it: linux, the host's, and netiotest, a twin in memory for
// tests.
package netio

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

// Backend opens devices and connections.
type Backend interface {
	// OpenDevice creates the TAP or TUN and returns a queue per worker.
	OpenDevice(s DeviceSpec) ([]Device, error)
	// OpenUDP returns each worker's Conn for the UDP port.
	OpenUDP(port uint16, workers int) ([]Conn, error)
	// OpenIPIP returns each worker's Conn for IP-in-IP (RFC 2003). Any of them may
	// be the only one that receives.
	OpenIPIP(workers int) ([]Conn, error)
	// OpenGroup returns a Conn that receives what is sent to the multicast group on
	// the port.
	OpenGroup(group netip.Addr, port uint16) (Conn, error)
	// NewPoller returns what a thread waits with for the devices and connections.
	NewPoller() (Poller, error)
	// ExportHandover returns what another process needs to go on with what is open.
	// The file descriptors stay this backend's until it ends; two may have them
	// open, but only one may use them.
	ExportHandover(o Open) (*Handover, error)
	// SourcePorts lists the pool of source ports.
	SourcePorts() []uint16
	// RunsRefused lists the peers whose routes refused UDP_SEGMENT and that get
	// payloads one by one, in order; nil while there is none.
	RunsRefused() []RunsRefused
	// SupportsUDP reports whether sockets have UDP_SEGMENT and UDP_GRO.
	SupportsUDP() (segment, gro bool)
	// SourcePort is that from which a Send of the flow leaves, with DF or without.
	SourcePort(flow uint32, df bool) uint16
	// TakesUnsegmented reports whether GSO packets to the peer are tried
	// unsegmented; packets asks for IP-in-IP. Peers that were refused within the
	// last moments are not left out.
	TakesUnsegmented(peer netip.Addr, packets bool) bool
	// TakesRuns reports whether sends on the route to the peer use UDP_SEGMENT.
	TakesRuns(peer netip.Addr) bool
	// ChecksumErrors is how many datagrams this host refused because their UDP
	// checksum was wrong, or zero over IPv6 where no socket takes that: to any
	// socket of its network namespace.
	ChecksumErrors() uint64
	// SendOne sends one payload outside the tx path, and does not block. It returns
	// the errno of a refusal, else 0. One goroutine at a time may call it, beside
	// the threads. The bytes are the caller's again when it returns.
	SendOne(s *Send) unix.Errno
	// PathMTU is as that of a Conn, for control.
	PathMTU(peer netip.Addr) encap.UnderlayMTU
	// NoRoute returns a function that reports whether the underlay has no route to
	// a peer, for control; nil where WriteBatch reports it.
	NoRoute() func(peer netip.Addr) bool
	// Tick does the backend's upkeep. It is called once a second.
	Tick()
	// Uplink says how GSO packets leave unsegmented.
	Uplink() UplinkInfo
	Close() error
}

// UplinkInfo describes the way on which GSO packets leave unsegmented.
type UplinkInfo struct {
	Active bool   `json:"active"`           // GSO packets take it
	Reason string `json:"reason,omitempty"` // why they do not, and the sockets send segments
	// IPIPReason is why GSO packets of IP-in-IP do not take it although those of
	// VXLAN do.
	IPIPReason string `json:"ipip_reason,omitempty"`
	Lost       bool   `json:"lost"`             // it worked, and does not until a restart
	Device     string `json:"device,omitempty"` // its TAP
	Sent       uint64 `json:"sent"`             // GSO packets that took it
	// Refused counts GSO packets that left as segments instead, by reason:
	// "no_route" (none that leads out of this host over a plain device),
	// "no_neighbour" (the next hop's address is not resolved), "too_big" (their
	// packets for the path's MTU, or they themselves for one IP packet),
	// "other_device" (the route leaves by a device that takes none), "kernel" (an
	// error). For a tenth of a second after one, a peer's leave as segments
	// uncounted.
	Refused map[string]uint64 `json:"refused,omitempty"`
}
