package dataplane_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// TestKernelWithoutUSO wants UDP to reach a TAP of a kernel before 6.2, which
// takes no UDP GSO packets: neither GRO flows nor those a peer sent whole.
func TestKernelWithoutUSO(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	edges.WithoutUSO()
	n := testNetwork(addrA, addrB)
	roadsA, err := dataplane.NewPaths(dataplane.Options{Underlay: addrA, Backend: edges}, n)
	if err != nil {
		t.Fatal(err)
	}
	r := &paths{Paths: roadsA, u: u, backend: edges, tap: edges.TAP(n.Device), tb: t, net: n}
	defer r.Close()

	s := flowSpec{src: macB, dst: macA, udp: true}
	want := s.segments(t, pattern(5*1000), 1000)
	for i, got := range r.inAll(want...) {
		if !bytes.Equal(got, want[i]) {
			t.Errorf("frame %d is another", i)
		}
	}

	super := s.partial(t, pattern(5*1000))
	whole := vxlan(testVNI, super.Data)
	got := r.in(netio.Datagram{From: addrB, Data: whole, SegSize: 1000})
	if len(got) != 5 {
		t.Fatalf("a UDP GSO packet of 5 segments came as %d frames; drops %+v", len(got), r.Engine.Stats().Drops)
	}
	for i, f := range got {
		if !bytes.Equal(f.Data[s.payloadAt():], want[i][s.payloadAt():]) || !sumsUp(f.Data) {
			t.Errorf("segment %d is another", i)
		}
	}

	tcp := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	if got := r.inAll(tcp.segments(t, pattern(3000), 1000)...); len(got) != 3 {
		t.Errorf("%d TCP segments arrived, want 3", len(got))
	}
}

// TestEveryLostDeviceIsTold deletes more TAPs at once than events have room for.
func TestEveryLostDeviceIsTold(t *testing.T) {
	const count = 60
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 1)
	var nets []dataplane.Network
	for i := range count {
		name := string(rune('a'+i/26)) + string(rune('a'+i%26))
		nets = append(nets, renamed(testNetwork(addrA, addrB), name, "t"+name, encap.VNI(100+i)))
	}
	a.apply(nets...)
	for _, n := range nets {
		a.TAP(n.Device).FailReads(unix.EBADFD)
	}
	reported := make(map[string]bool)
	for range count {
		reported[a.event().Network] = true
	}
	if len(reported) != count {
		t.Errorf("%d networks reported, want %d", len(reported), count)
	}
}
