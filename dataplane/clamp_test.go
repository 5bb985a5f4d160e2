package dataplane_test

import (
	"encoding/binary"
	"testing"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// announcing is the spec's SYN that announces segments of mss bytes.
func announcing(tb testing.TB, s flowSpec, mss uint16) []byte {
	tb.Helper()
	s.tcpFlags, s.tcpOptions = encap.TCPSYN, 4
	f := s.complete(tb, nil)
	o := f[s.l4()+encap.TCPHeaderLen:]
	o[0], o[1] = 2, 4
	binary.BigEndian.PutUint16(o[2:], mss)
	binary.BigEndian.PutUint16(f[s.l4()+16:], 0)
	pseudo := slowPseudo(f, s.l3(), s.l4(), s.v6)
	binary.BigEndian.PutUint16(f[s.l4()+16:], ^slowSum(f[s.l4():], binary.BigEndian.AppendUint16(nil, pseudo)))
	if !sumsUp(f) {
		tb.Fatal("the test's own SYN has a wrong checksum")
	}
	return f
}

// mssOf is what a SYN announces.
func mssOf(f []byte, s flowSpec) uint16 {
	return binary.BigEndian.Uint16(f[s.l4()+encap.TCPHeaderLen+2:])
}

// TestClampMSS lowers what SYNs announce, both ways, to what fits the network or
// the path to the peer, and leaves their checksums right, finished or not.
func TestClampMSS(t *testing.T) {
	for name, c := range map[string]struct {
		off     bool
		v6      bool
		tags    int
		mss     uint16
		path    encap.UnderlayMTU
		partial bool
		want    uint16
	}{
		"off":              {off: true, mss: 1460, want: 1460},
		"IPv4":             {mss: 1460, want: 1410},
		"IPv6":             {v6: true, mss: 1440, want: 1390},
		"small already":    {mss: 1000, want: 1000},
		"tagged":           {tags: 1, mss: 1460, want: 1410},
		"partial":          {mss: 1460, partial: true, want: 1410},
		"partial, IPv6":    {v6: true, mss: 1440, partial: true, want: 1390},
		"narrow path":      {mss: 1460, path: 1400, want: 1310},
		"narrow, tagged":   {tags: 1, mss: 1460, path: 1400, want: 1306},
		"narrow, IPv6":     {v6: true, mss: 1440, path: 1400, want: 1290},
		"narrow, no limit": {mss: 1460, path: 1500, want: 1410},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNetwork(addrA, addrB)
			n.ClampMSS = !c.off
			r := newPaths(t, n)
			defer r.Close()
			r.Learn(macB, 0)
			if c.path != 0 {
				r.SetPathMTU(addrB, c.path)
			}
			s := flowSpec{src: macA, dst: macB, v6: c.v6, tags: c.tags}
			f := netiotest.Frame{Data: announcing(t, s, c.mss)}
			at := s.l4() + 16
			if c.partial {
				f.VNet = encap.VnetHdr{Flags: encap.VnetNeedsCsum, CsumStart: uint16(s.l4()), CsumOffset: 16}
				binary.BigEndian.PutUint16(f.Data[at:], slowPseudo(f.Data, s.l3(), s.l4(), s.v6))
			}
			got := r.out(f)
			if len(got) != 1 || mssOf(got[0], s) != c.want || !sumsUp(got[0]) {
				t.Fatalf("outbound: %d frames, want one that announces %d, and a right checksum: % x", len(got), c.want, got)
			}

			back := flowSpec{src: macB, dst: macA, v6: c.v6, tags: c.tags}
			in := announcing(t, back, c.mss)
			if c.partial {
				binary.BigEndian.PutUint16(in[at:], slowPseudo(in, back.l3(), back.l4(), back.v6))
			}
			frames := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, in)})
			all := cutAll(t, frames)
			if len(all) != 1 || mssOf(all[0], back) != c.want || !sumsUp(all[0]) {
				t.Fatalf("inbound: %d frames, want one that announces %d, and a right checksum: % x", len(all), c.want, all)
			}
		})
	}
}

// TestClampMSSOfTunnels is the same by IP-in-IP.
func TestClampMSSOfTunnels(t *testing.T) {
	for _, on := range []bool{false, true} {
		c := testTunnel()
		c.ClampMSS = on
		r := newTunnelPaths(t, c)
		want := uint16(1460)
		if on {
			want = uint16(c.MTU) - 40
		}
		s := flowSpec{src: macA, dst: macB}
		packet := announcing(t, s, 1460)[s.l3():]
		for _, sent := range r.out(netiotest.Frame{Data: packet}) {
			for _, p := range sent.Payloads {
				f := append(make([]byte, encap.EthernetHeaderLen), p...)
				if got := mssOf(f, s); got != want {
					t.Errorf("on=%t: %d left, want %d", on, got, want)
				}
			}
		}
		n := r.Engine.Stats().Networks[0]
		if n.TxPackets != 1 {
			t.Errorf("on=%t: %d left: %+v", on, n.TxPackets, r.Engine.Stats().Drops)
		}
		packet = announcing(t, s, 1460)[s.l3():]
		frames := r.in(fromB(packet))
		if len(frames) != 1 {
			t.Fatalf("on=%t: %d arrived", on, len(frames))
		}
		if got := mssOf(append(make([]byte, encap.EthernetHeaderLen), frames[0].Data...), s); got != want {
			t.Errorf("on=%t: %d arrived, want %d", on, got, want)
		}
	}
}
