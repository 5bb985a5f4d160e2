package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// Explain says what the paths would do with a frame. It goes by the functions of
// the paths themselves, with I/O that keeps what it is given (dry_run.go), and
// leaves no trace: where a function of the path decides and does, only its
// deciding part is called. What depends on the moment is left out: full buffers,
// another writer at a table, a bound on ICMP errors a second.

// Query is a frame to be explained. The JSON names are those of the control
// socket.
type Query struct {
	// Network is the name of a network or a tunnel. For a frame from the wire it
	// may be "" where VNI and Port say which.
	Network string `json:"network,omitempty"`
	// Frame is as the device would give it, an Ethernet frame or a tunnel's IPv4
	// packet, with whole checksums. It may end behind its headers: zeros follow.
	Frame []byte `json:"frame"`
	// Packet says that Frame is an IP packet, without Ethernet header.
	Packet bool `json:"packet,omitempty"`
	// Size is the frame's length in bytes when it is more than len(Frame).
	Size int `json:"size,omitempty"`
	// SegSize makes it a GSO packet of TCP or UDP, to be cut into segments with so
	// many bytes of payload. Outbound only.
	SegSize int `json:"segment,omitempty"`
	// From is the peer that sends the frame to us; invalid for one from the device.
	From netip.Addr `json:"from,omitzero"`
	// VNI and Port are those of the received datagram, where they are not the
	// network's; nil and 0 else.
	VNI  *encap.VNI `json:"vni,omitempty"`
	Port uint16     `json:"port,omitempty"`
	// TOS is that of the received outer packet.
	TOS uint8 `json:"tos,omitempty"`
}

// Outcome is what becomes of a frame.
type Outcome string

// The outcomes.
const (
	OutcomeSent      Outcome = "sent"      // to one peer at least
	OutcomeAnswered  Outcome = "answered"  // on this host, by suppression
	OutcomeDelivered Outcome = "delivered" // to the device
	OutcomeDropped   Outcome = "dropped"
	// OutcomeBridged: by the host's bridge to one of its ports or to the host, so
	// that the frame never gets to the device. The caller, which knows the bridge, says so.
	OutcomeBridged Outcome = "bridged"
)

// Explanation is what would become of a Query, and why. The JSON names are part
// of the command line's contract.
type Explanation struct {
	Network   string    `json:"network"` // "" when the frame belongs to none
	Kind      Kind      `json:"kind,omitempty"`
	Direction Direction `json:"direction"`
	Steps     []Step    `json:"steps"`
	Copies    []Copy    `json:"copies"` // of a frame to the wire, one for each receiver
	Verdict   Outcome   `json:"verdict"`
	// Reason is why it is dropped; where some copies only are, theirs say why.
	Reason Drop `json:"reason,omitzero"`
	// Notified is the ICMP error that its sender gets, "" = nothing.
	Notified string `json:"told,omitempty"`
}

// Step is one decision on the path.
type Step struct {
	Name string `json:"step"`
	// Verdict is "pass", "drop", "answer", or "note" for what does not decide
	// about this frame.
	Verdict string `json:"verdict"`
	Reason  Drop   `json:"reason,omitzero"` // of a drop
	Detail  string `json:"detail"`
}

// The verdicts of a step.
const (
	stepPass  = "pass"
	stepDrop  = "drop"
	stepReply = "answer"
	stepNote  = "note"
)

// Copy is what one receiver gets of a frame.
type Copy struct {
	Peer       netip.Addr        `json:"peer"` // or multicast group
	Port       uint16            `json:"port"` // the peer's; 0 for IP-in-IP, as SourcePort is
	SourcePort uint16            `json:"source_port"`
	Frames     int               `json:"frames"`   // outer packets: the segments of a GSO packet
	Length     int               `json:"length"`   // of the longest outer packet, in bytes
	Overhead   int               `json:"overhead"` // what is put before the inner IP packet, in bytes
	PathMTU    encap.UnderlayMTU `json:"pmtu"`     // the longest outer packet that arrives; 0 = there is no route
	DF         bool              `json:"df"`
	TOS        uint8             `json:"tos"`
	TTL        uint8             `json:"ttl"`
	// Way is "uplink" (unsegmented, and what the uplink refuses as segments),
	// "UDP_SEGMENT" (cut, all segments by one call) or "sendmmsg".
	Way    string `json:"way"`
	Reason Drop   `json:"reason,omitzero"` // why it is dropped
}

// Explain says what would become of the frame. An error says what about the
// query cannot be.
func (e *Engine) Explain(p Query) (Explanation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return Explanation{}, ErrClosed
	}
	if err := p.check(); err != nil {
		return Explanation{}, err
	}
	m, err := e.findMember(&p)
	if err != nil {
		return Explanation{}, err
	}
	x := &explainer{e: e, query: &p}
	x.out.Steps, x.out.Copies = []Step{}, []Copy{}
	switch m := m.(type) {
	case *network:
		x.out.Network, x.out.Kind = m.name, KindVXLAN
		if !p.From.IsValid() {
			x.outbound(m)
		} else {
			x.inbound(m)
		}
	case *tunnel:
		x.out.Network, x.out.Kind = m.name, KindIPIP
		if !p.From.IsValid() {
			x.packetOut(m)
		} else {
			x.packetIn()
		}
	}
	return x.out, nil
}

// check reports what about the query alone cannot be.
func (p *Query) check() error {
	size := max(p.Size, len(p.Frame))
	switch {
	case size > netio.MaxFrame:
		return fmt.Errorf("a frame of %d bytes: want at most %d", size, netio.MaxFrame)
	case p.SegSize < 0 || p.SegSize > 0xffff:
		return fmt.Errorf("segments of %d bytes: want 1 to %d", p.SegSize, 0xffff)
	case p.SegSize != 0 && p.From.IsValid():
		return errors.New("segments of a frame from the wire: want a frame that is none of several")
	case !p.From.IsValid() && (p.VNI != nil || p.Port != 0 || p.TOS != 0):
		return errors.New("a VNI, port or TOS of a received datagram: want the peer that it is from")
	}
	return nil
}

// findMember is the network or tunnel whose path is explained.
func (e *Engine) findMember(p *Query) (member, error) {
	c := e.snapshot.Load()
	if p.Network == "" && p.VNI != nil && p.Port != 0 {
		if n := c.byPort[p.Port][*p.VNI]; n != nil {
			return n, p.fits(n)
		}
		if len(c.networks) > 0 {
			return c.networks[0], p.fits(c.networks[0]) // any: none of them gets the datagram
		}
	}
	for _, m := range c.members {
		if m.base().name == p.Network {
			return m, p.fits(m)
		}
	}
	return nil, fmt.Errorf("no network is named %q", p.Network)
}

// fits reports what about the query cannot be on the network or tunnel.
func (p *Query) fits(m member) error {
	t, ok := m.(*tunnel)
	switch {
	case ok && (p.VNI != nil || p.Port != 0):
		return fmt.Errorf("network %q is of IP-in-IP: it has neither VNI nor port", t.name)
	case ok && !p.Packet:
		return fmt.Errorf("network %q is of IP-in-IP: want an IP packet's addresses, and no MACs", t.name)
	case !ok && p.Packet:
		return fmt.Errorf("network %q carries Ethernet frames: want the MACs of source and destination", m.base().name)
	}
	return nil
}

// explainer explains one frame.
type explainer struct {
	e     *Engine
	query *Query
	out   Explanation
}

func (x *explainer) step(name, verdict, format string, args ...any) {
	x.out.Steps = append(x.out.Steps, Step{Name: name, Verdict: verdict, Detail: fmt.Sprintf(format, args...)})
}

// checked adds a step for a check by its drop, and reports whether the frame passed it.
func (x *explainer) checked(name string, d Drop, format string, args ...any) bool {
	if d != dropNone {
		x.drop(name, d, d.Text())
		return false
	}
	x.step(name, stepPass, format, args...)
	return true
}

// drop ends the path.
func (x *explainer) drop(name string, d Drop, detail string) {
	x.out.Steps = append(x.out.Steps, Step{Name: name, Verdict: stepDrop, Reason: d, Detail: detail})
	x.out.Verdict, x.out.Reason = OutcomeDropped, d
}

// lost adds a step for a device that was deleted under the engine, and reports whether
// it was.
func (x *explainer) lost(o *netBase, device string) bool {
	if o.lost.Load() {
		x.drop("device", tapDrop(unix.EBADFD), "the device "+device+" was deleted: the daemon makes it again")
		return true
	}
	return false
}

// room returns the query's bytes as a frame with Headroom before it.
func (x *explainer) room() []byte {
	b := make([]byte, netio.Headroom+max(x.query.Size, len(x.query.Frame)))
	copy(b[netio.Headroom:], x.query.Frame)
	return b
}

// frame is the query as a device gives it.
func (x *explainer) frame(find func([]byte) (encap.Transport, bool)) *netio.Frame {
	f := netio.NewFrame(x.room())
	if x.query.SegSize == 0 {
		return f
	}
	f.VNet.GSOSize = uint16(x.query.SegSize)
	f.VNet.GSOType = encap.VnetGSOUDPL4
	if t, ok := find(f.Data); ok {
		f.VNet.Flags, f.VNet.CsumStart = encap.VnetNeedsCsum, uint16(t.L4)
		switch {
		case t.Proto == encap.ProtoTCP && t.V6:
			f.VNet.GSOType = encap.VnetGSOTCPv6
		case t.Proto == encap.ProtoTCP:
			f.VNet.GSOType = encap.VnetGSOTCPv4
		}
		f.VNet.CsumOffset = tcpSumAt
		if t.Proto == encap.ProtoUDP {
			f.VNet.CsumOffset = udpSumAt
		}
	}
	return f
}
