package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/encap"
)

// stormy bounds what is flooded to a hundred frames a second of each kind.
var stormy = []string{"storm_broadcast = 100", "storm_multicast = 100", "storm_unknown_unicast = 100"}

// peerFaults are what peers and containers do that are let in.
var peerFaults = []fault{
	{name: "spoofed source MACs", build: pinnedPeer, strike: func(s *scene) {
		n := s.pelt(s.unlisted(), func(int) []byte {
			return vxlan(8, 100, ethernet(s.a.MAC, s.b.MAC, nil, etherTest, marked(60, "")))
		})
		s.expects("blue", dataplane.Inbound, dataplane.DropVXLANEntryExists, n)
		n = s.pelt(s.peer(), func(int) []byte { return vxlan(8, 100, s.frame()) })
		s.expectsSome("blue", dataplane.Inbound, dataplane.DropMACNotAdmitted, n)
	}},
	{name: "MAC flapping", build: hostilePeer, strike: func(s *scene) {
		ends := []*vtep{s.peer(), s.unlisted()}
		sent := 0
		for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			for _, v := range ends {
				v.send(0, vxlan(8, 100, s.frame()))
				sent++
			}
		}
		eventually(s.t, "the MAC is frozen", func() error {
			if n := s.network(); n.Frozen != 1 || n.LearnFrozen == 0 || n.LearnMoved > 5 {
				return fmt.Errorf("%+v", n)
			}
			return nil
		})
		if e, ok := s.d.entry("blue", imposter); !ok || !e.Frozen {
			s.t.Errorf("its entry: %+v", e)
		}
		s.delivered(sent)
	}},
	{name: "1 M source MACs", build: hostilePeer, loss: 0.5, strike: strikeMACs},
	{name: "ARP storm", build: besideKernel, lines: stormy, loss: 0.5, strike: func(s *scene) {
		mouth := openRaw(s.t, s.second(), netlab.ContainerDev)
		defer mouth.close()
		request := ethernet(encap.BroadcastMAC, imposter, nil, unix.ETH_P_ARP, marked(46, ""))
		before := s.network()
		sent, start := 0, time.Now()
		for end := start.Add(lasting()); time.Now().Before(end); sent++ {
			mouth.send(request)
		}
		took := time.Since(start)
		now := s.network()
		passed := now.TxPackets - before.TxPackets
		// A bucket's worth, what came meanwhile, and the honest flow.
		if most := 100 + 100*took.Seconds() + 2*took.Seconds()/probeEvery.Seconds() + 200; float64(passed) > most {
			s.t.Errorf("%d frames left of a storm of %d in %v, want at most %.0f", passed, sent, took, most)
		}
		s.expectsSome("blue", dataplane.Outbound, dataplane.DropStormBroadcast, min(sent/10, 1000))
	}},
	{name: "loop between two hosts", build: besideKernel, lines: stormy, loss: 1, strike: func(s *scene) {
		mouth := openRaw(s.t, s.second(), netlab.ContainerDev)
		defer mouth.close()
		check(s.t, netlab.AddVeth(s.a.Host, "loop0", s.b.Host, "loop0", int(s.a.MTU)))
		for _, site := range []*netlab.Site{s.a, s.b} {
			check(s.t, site.Host.SetMaster("loop0", netlab.SiteBridge))
		}
		// Broadcasts, as of ARP, also of those whose flow is honest.
		honest := openRaw(s.t, s.b.Container, netlab.ContainerDev)
		defer honest.close()
		for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			mouth.send(ethernet(encap.BroadcastMAC, imposter, nil, etherTest, marked(60, "")))
			honest.send(ethernet(encap.BroadcastMAC, s.b.MAC, nil, etherTest, marked(60, "")))
		}
		s.expectsSome("blue", dataplane.Outbound, dataplane.DropStormBroadcast, 1)
		eventually(s.t, "the storm is bounded", func() error { return s.counted(s.expect[0]) })
		eventually(s.t, "a warning", func() error {
			if st := s.d.status(); len(st.Warnings) == 0 {
				return fmt.Errorf("none: %s", s.d.verb("status"))
			}
			return nil
		})
		check(s.t, s.a.Host.DeleteLink("loop0"))
		eventually(s.t, "the honest flow's MAC is where it belongs", func() error {
			if e, ok := s.d.entry("blue", s.b.MAC); !ok || e.Peer != s.b.Underlay || e.Frozen {
				return fmt.Errorf("its entry: %+v", e)
			}
			return nil
		})
	}},
	{name: "container floods", build: besideKernel, loss: 0.9, strike: func(s *scene) {
		flood := s.flood(s.second(), traffic.UDPOptions{Size: 64, Duration: lasting()})
		s.t.Logf("the flood: %v", flood)
		if flood.Received == 0 {
			s.t.Errorf("nothing of it arrived: %v", flood)
		}
	}},
}

// pinnedPeer has b bound to its container's MAC.
func pinnedPeer(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	conf := at(s.a, blue(s.a, s.c))
	conf.last = fmt.Sprintf("[[vxlan.peer]]\naddress = %q\nmacs = [%q]\n", s.b.Underlay, s.b.MAC)
	s.d = start(t, s.a.Host, conf)
	return s
}

// second is another container at a, that b's knows.
func (s *scene) second() *netlab.Host {
	s.t.Helper()
	c := must[*netlab.Host](s.t)(s.a.Host.AddContainer(netlab.ContainerSpec{
		Name: "a2", Bridge: netlab.SiteBridge, MTU: int(s.a.MTU), MAC: 0x0242_0000_0067, Addrs: []netip.Prefix{prefix("198.51.100.202/24")},
	}))
	reaches(s.t, c, s.b.IPv4)
	return c
}

// flood sends from a container at a to b's.
func (s *scene) flood(from *netlab.Host, o traffic.UDPOptions) traffic.UDPResult {
	s.t.Helper()
	return must[traffic.UDPResult](s.t)(traffic.UDP(s.t.Context(),
		traffic.End{Host: from, Addr: prefix("198.51.100.202/24").Addr()}, traffic.End{Host: s.b.Container, Addr: s.b.IPv4}, o))
}

// delivered wants n frames to have been delivered beside the honest flow's.
func (s *scene) delivered(n int) {
	s.t.Helper()
	was := uint64(0)
	for _, net := range s.before.Networks {
		was = net.RxPackets
	}
	eventually(s.t, "the frames are delivered", func() error {
		queue := socketDrops(s.d.stats()) - socketDrops(s.before)
		if got := s.network().RxPackets - was + queue; got < uint64(n) {
			return fmt.Errorf("%d frames were delivered, want %d", got, n)
		}
		return nil
	})
}

// strikeMACs has a peer send from ever new source MACs, as fast as it can: it gets
// its share of the table, and no more; its frames arrive all the same.
func strikeMACs(s *scene) {
	const (
		run   = 64     // datagrams of one UDP_SEGMENT
		each  = 8 + 60 // bytes: a VXLAN header and a frame
		first = encap.MAC(0x0242_0300_0000)
	)
	count := sized(100_000, 1_000_000)
	v := s.unlisted()
	check(s.t, unix.SetsockoptInt(v.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, each))
	buffer := make([]byte, run*each)
	for i := range run {
		encap.PutVXLAN(buffer[i*each:], 100)
		f := buffer[i*each+8:]
		s.a.MAC.Put(f)
		binary.BigEndian.PutUint16(f[12:], etherTest)
	}
	rss, start := s.d.rss(), time.Now()
	for at := 0; at < count; at += run {
		for i := range run {
			(first + encap.MAC(at+i)).Put(buffer[i*each+8+encap.MACLen:])
		}
		if _, err := unix.Write(v.fd, buffer); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			s.t.Fatal(err)
		}
		if at%(run*16) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	took := time.Since(start)
	eventually(s.t, "the peer has its share of the table", func() error {
		n := s.network()
		if n.LearnQuota == 0 || n.EntriesLearned > n.EntriesMax/2+1000 {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	s.t.Logf("%d source MACs in %v; %+v; %d KiB resident before, %d after", count, took, s.network(), rss, s.d.rss())
	if e, ok := s.d.entry("blue", s.b.MAC); !ok || e.Peer != s.b.Underlay {
		s.t.Errorf("the honest flow's entry: %+v", e)
	}
}
