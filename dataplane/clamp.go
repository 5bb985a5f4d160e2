package dataplane

import (
	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// innerMTU is the longest inner packet to the peer, behind outer bytes of other
// headers: the network's MTU, or less where the path is known to be narrow.
func innerMTU(mtu encap.OverlayMTU, peers *fdb.Peers, id fdb.PeerID, outer int) int {
	if peers.Narrow() {
		if path := peers.PathMTU(id); path != 0 {
			return min(int(mtu), int(path)-outer)
		}
	}
	return int(mtu)
}

// clampMSS lowers the segment size that a SYN announces to what fits mtu, so that
// its receiver sends no segments that are too long, also where ICMP is filtered.
// partial says that the frame's checksum is left to a device.
func clampMSS(frame []byte, t encap.Transport, mtu int, partial bool) {
	headers := encap.IPv4HeaderLen + encap.TCPHeaderLen
	if t.V6 {
		headers = encap.IPv6HeaderLen + encap.TCPHeaderLen
	}
	if mss := mtu - headers; mss > 0 && !t.Fragment {
		encap.ClampMSS(frame[t.L4:t.End], uint16(mss), partial)
	}
}

// clamp clamps what leaves for the peer, NoPeer for several.
func (o *sender) clamp(f *netio.Frame, t encap.Transport, id fdb.PeerID) {
	outer := o.at.outer(o.at.peers.Addr(id)) + t.L3
	clampMSS(f.Data, t, innerMTU(o.at.mtu, o.at.peers, id, outer), f.VNet.Flags&encap.VnetNeedsCsum != 0)
}

// clamp clamps what came from the peer, behind outer bytes of other headers than
// its own. A peer on this machine may have left its checksum unfinished.
func (in *deliverer) clamp(frame []byte, t encap.Transport, peers *fdb.Peers, id fdb.PeerID, outer int) {
	if tcp, err := encap.ParseTCP(frame[t.L4:t.End]); err != nil || tcp.Flags()&encap.TCPSYN == 0 {
		return
	}
	clampMSS(frame, t, innerMTU(in.sink.mtu, peers, id, outer+t.L3), unfinished(frame, t, tcpSumAt))
}
