package traffic

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// Frames leave from each end in turn, and from each of the MACs.
func TestVXLAN(t *testing.T) {
	lab := netlabtest.New(t)
	sites, err := lab.Sites(netlab.SiteSpec{Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	to := End{Host: sites[0].Host, Addr: sites[0].Underlay}
	ear, err := to.open(unix.SOCK_DGRAM)
	if err != nil {
		t.Fatal(err)
	}
	defer ear.close()
	port, err := ear.bind(to.Addr, 0)
	if err != nil {
		t.Fatal(err)
	}
	const count, sources, first = 60, 10, encap.MAC(0x0242_0000_0100)
	var from []End
	for _, s := range sites[1:] {
		from = append(from, End{Host: s.Host, Addr: s.Underlay})
	}
	o := VXLANOptions{VNI: 100, Dst: sites[0].MAC, Src: first, Sources: sources, Batch: 5, Rate: 2000, Count: count}
	sent, took, err := VXLAN(t.Context(), from, netip.AddrPortFrom(to.Addr, port), o)
	if err != nil || sent != count || took < 25*time.Millisecond {
		t.Fatalf("%d sent in %v, %v; want %d", sent, took, err, count)
	}
	senders, macs := map[[4]byte]int{}, map[encap.MAC]int{}
	b := make([]byte, 2000)
	for range count {
		n, who, err := unix.Recvfrom(int(ear), b, 0)
		if err != nil {
			t.Fatal(err)
		}
		h, err := encap.ParseVXLAN(b[:n])
		if err != nil || h.VNI != 100 || n != encap.VXLANHeaderLen+vxlanFrame {
			t.Fatalf("%d bytes, %+v, %v", n, h, err)
		}
		eth, err := encap.ParseEthernet(b[encap.VXLANHeaderLen:n])
		if err != nil || eth.Dst() != sites[0].MAC {
			t.Fatalf("for %v, %v", eth.Dst(), err)
		}
		macs[eth.Src()]++
		senders[who.(*unix.SockaddrInet4).Addr]++
	}
	for i := range sources {
		if n := macs[first+encap.MAC(i)]; n != count/sources {
			t.Errorf("%d frames from MAC %d, want %d", n, i, count/sources)
		}
	}
	for _, s := range sites[1:] {
		if n := senders[s.Underlay.As4()]; n != count/2 {
			t.Errorf("%d frames from %v, want %d", n, s.Underlay, count/2)
		}
	}
}
