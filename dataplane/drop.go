package dataplane

import "fmt"

// Drop names why a frame was dropped. The list is closed: every early return on
// the path carries one of these, each has a counter per network, direction and
// worker, a metric and a row in the documentation. The words are the kernel's
// where it has one (include/net/dropreason-core.h).
type Drop uint8

// The reasons. A new one goes here and nowhere else.
const (
	dropNone Drop = iota // not a drop: the frame goes on

	DropTooShort         // a header is cut off
	DropVXLANInvalidHdr  // the I flag is missing, or reserved bits are set and not taken
	DropVXLANGPE         // the VXLAN header has the P or the O bit of VXLAN-GPE
	DropVXLANVNINotFound // no network has this VNI on this port
	DropFromOverlay      // it came out of an overlay network of this host
	DropPeerNotAdmitted  // the sender is neither a peer nor in an admitted prefix
	DropPeerTableFull    // the sender would be admitted, but the bound of learned peers is reached
	DropPeerTableBusy    // the sender would be admitted, but another one is just being; its next frame gets in
	DropUDP6ZeroCsum     // no UDP checksum over IPv6, from a peer of whom that is not taken
	DropMACInvalidSource // the inner source MAC is zero or multicast
	DropLocalMAC         // the inner source MAC is our own TAP's
	DropVXLANEntryExists // a static MAC came from another peer than its own
	DropMACNotAdmitted   // the sender is pinned to other MACs
	DropStormBroadcast   // more broadcasts than the network or the peer may send
	DropStormUnknown     // more unknown unicast than the network may flood
	DropStormMulticast   // more multicast than the network or the peer may send
	DropIPTunnelECN      // congestion marked outside, but the inner packet is not ECN-capable
	DropBridgeControl    // destination 01:80:c2:00:00:0X, where that does not pass
	DropVXLANNoRemote    // unknown destination and no peer to flood to
	DropTooBig           // larger than the network's MTU or the path's
	DropBadOffload       // the frame's offload metadata contradict its bytes
	DropBadChecksum      // the IPv4 header checksum of a GSO packet is wrong
	DropVLANTagged       // a tagged frame on a network that takes none
	DropTapFull          // the TAP would not take the frame
	DropTapDown          // the TAP is down or gone
	DropTapError         // the TAP returned an error that has no name here
	DropWireFull         // the socket's send buffer is full
	DropNoRoute          // no route of the tunnel for the destination, or none of the underlay to the peer
	DropWireRefused      // a firewall on this host refused the datagram
	DropWireError        // the socket returned an error that has no name here
	DropIPInHdr          // a tunnel's inner IPv4 header is malformed
	DropUnhandledProto   // a tunnel's inner packet is not IPv4
	DropTTLZero          // a packet without hops left is not put into a tunnel
	DropLoop             // a tunnel's packet would run in a circle
	DropSourceNotRouted  // the inner source does not route to the peer that sent the packet
	DropProbeLimited     // more probes than are taken in
	DropTruncated        // the datagram was longer than the receive buffer
	dropCount
)

var drops = [dropCount]struct{ name, text string }{
	DropTooShort:         {"too_short", "a header is cut off"},
	DropVXLANInvalidHdr:  {"vxlan_invalid_hdr", "the VXLAN header lacks the I flag, or has reserved bits set where that is not taken"},
	DropVXLANGPE:         {"vxlan_gpe", "the VXLAN header is one of VXLAN-GPE: what follows is no Ethernet frame (P bit), or belongs to OAM (O bit)"},
	DropVXLANVNINotFound: {"vxlan_vni_not_found", "no network has this VNI on this port"},
	DropFromOverlay:      {"from_overlay", "it came in by a device of an overlay network of this host, or its sender's address routes into one: no peer is there"},
	DropPeerNotAdmitted:  {"peer_not_admitted", "the sender is neither a listed peer nor in an admitted prefix"},
	DropPeerTableFull:    {"peer_table_full", "the bound of learned peers is reached"},
	DropPeerTableBusy:    {"peer_table_busy", "another sender is being admitted; the next frame of this one gets in"},
	DropUDP6ZeroCsum:     {"udp6_zero_csum", "a UDP checksum of zero over IPv6, which the network does not take from this peer"},
	DropMACInvalidSource: {"mac_invalid_source", "the inner source MAC is zero or multicast"},
	DropLocalMAC:         {"local_mac", "the inner source MAC is our own TAP's: a loop or a duplicate"},
	DropVXLANEntryExists: {"vxlan_entry_exists", "a static MAC came from another peer than its own"},
	DropMACNotAdmitted:   {"mac_not_admitted", "the sender is pinned to other MACs than the frame's source"},
	DropStormBroadcast:   {"storm_broadcast", "more broadcast frames than the network, or the peer, may send"},
	DropStormUnknown:     {"storm_unknown_unicast", "more frames for unknown destinations than the network may flood"},
	DropStormMulticast:   {"storm_multicast", "more multicast frames than the network, or the peer, may send"},
	DropIPTunnelECN:      {"ip_tunnel_ecn", "congestion was marked outside, but the inner packet is not ECN-capable (RFC 6040)"},
	DropBridgeControl:    {"bridge_control", "a bridge protocol frame (01:80:c2:00:00:0X) does not cross the overlay, unless bridge_control = \"pass\"; PAUSE never does"},
	DropVXLANNoRemote:    {"vxlan_no_remote", "the destination is unknown and there is no peer to flood to"},
	DropTooBig:           {"too_big", "larger than the network's MTU or the path's"},
	DropBadOffload:       {"bad_offload", "the frame's offload metadata contradict its bytes"},
	DropBadChecksum:      {"bad_checksum", "the IPv4 header checksum of a GSO packet is wrong, and its segments would get right ones"},
	DropVLANTagged:       {"vlan_tagged", "a tagged frame on a network that takes none"},
	DropTapFull:          {"tap_full", "the TAP would not take the frame"},
	DropTapDown:          {"tap_down", "the TAP is down or gone"},
	DropTapError:         {"tap_error", "the TAP returned an error that has no name here"},
	DropWireFull:         {"wire_full", "the socket's send buffer is full"},
	DropNoRoute:          {"no_route", "the underlay has no route to the peer, or is down; or no route of the tunnel holds the destination"},
	DropWireRefused:      {"wire_refused", "a firewall on this host refused the datagram"},
	DropWireError:        {"wire_error", "the socket returned an error that has no name here"},
	DropIPInHdr:          {"ip_inhdr", "a tunnel's inner IPv4 header is malformed"},
	DropUnhandledProto:   {"unhandled_proto", "a tunnel's inner packet is not IPv4"},
	DropTTLZero:          {"ttl_zero", "a packet without hops left is not put into a tunnel (RFC 2003)"},
	DropLoop:             {"loop", "a tunnel's packet would run in a circle: it is from or for an end of the tunnel itself (RFC 2003)"},
	DropSourceNotRouted:  {"source_not_admitted", "the inner source does not route to the peer that sent the packet"},
	DropProbeLimited:     {"probe_limited", "peers send more probes than are taken in"},
	DropTruncated:        {"truncated", "the datagram was longer than the receive buffer"},
}

// Drops returns every reason in the order of the list.
func Drops() []Drop {
	all := make([]Drop, 0, dropCount-1)
	for d := dropNone + 1; d < dropCount; d++ {
		all = append(all, d)
	}
	return all
}

// String returns the reason's name, as in metrics and JSON.
func (d Drop) String() string {
	if d == dropNone || d >= dropCount {
		return fmt.Sprintf("drop(%d)", uint8(d))
	}
	return drops[d].name
}

// Text returns the reason in a sentence's words.
func (d Drop) Text() string {
	if d == dropNone || d >= dropCount {
		return d.String()
	}
	return drops[d].text
}

// MarshalText returns the reason's name.
func (d Drop) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a reason's name.
func (d *Drop) UnmarshalText(b []byte) error {
	for i := dropNone + 1; i < dropCount; i++ {
		if drops[i].name == string(b) {
			*d = i
			return nil
		}
	}
	return fmt.Errorf("unknown drop reason %q", b)
}

// Direction is the way a frame travels.
type Direction uint8

// Outbound is from the TAP to the wire, Inbound the reverse.
const (
	Outbound Direction = iota
	Inbound
	directions
)

var directionNames = [directions]string{Outbound: "outbound", Inbound: "inbound"}

// String returns "outbound" or "inbound".
func (d Direction) String() string { return directionNames[d] }

// MarshalText returns what String does.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Direction) UnmarshalText(b []byte) error {
	for i, n := range directionNames {
		if n == string(b) {
			*d = Direction(i)
			return nil
		}
	}
	return fmt.Errorf("unknown direction %q", b)
}
