package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/wiretest"
	"overtap/dataplane"
)

// wired returns the frames of the capture that came in from an underlay address.
func wired(t *testing.T, c *wiretest.Capture, from netip.Addr) (frames [][]byte) {
	t.Helper()
	for _, f := range c.Read() {
		p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		network, udp := p.NetworkLayer(), p.Layer(layers.LayerTypeUDP)
		if f.Outgoing || network == nil || udp == nil || !bytes.Equal(network.NetworkFlow().Src().Raw(), from.AsSlice()) {
			continue
		}
		if f.Unfinished {
			t.Fatal("the capture is of no use: a checksum is left to a device")
		}
		frames = append(frames, f.Data)
	}
	if lost, err := c.Lost(); err != nil || lost > 0 {
		t.Errorf("the capture lacks %d frames, %v", lost, err)
	}
	return frames
}

// TestNoBadChecksumOnTheWire has tshark verify every checksum, outer and inner,
// of what engines send in every combination, tagged GSO packets among it. It is
// caught behind the underlay's switch, whose ports have no offloads, so that
// what still is whole comes as a wire would carry it.
func TestNoBadChecksumOnTheWire(t *testing.T) {
	shark := wiretest.NewShark(t)
	var (
		all    [][]byte
		first  []int // index in all of each combination's
		counts = make(map[string]int)
		cs     []combination
	)
	for _, c := range combinations() {
		if !c.gro {
			cs = append(cs, c) // joining shows on the way in only
		}
	}
	for _, c := range cs {
		first = append(first, len(all))
		t.Run(c.name, func(t *testing.T) {
			lab, a, b := c.sites(t, true)
			sw, err := lab.Host("switch")
			if err != nil {
				t.Fatal(err)
			}
			ends := []*netlab.Site{a, b}
			ears := make([]*wiretest.Capture, 2)
			for i, s := range ends {
				finish(t, sw, s.Host.Name())
				ears[i] = wiretest.Open(t, s.Host, netlab.UnderlayDev)
			}
			engines := c.join(t, a, b, func(e *dataplane.Engine, peer netip.Addr) { e.Kernel().NoteRefusal(peer, unix.EIO) })
			lossless(t, engines, a, b, func() {
				exchange(t, a, b, 128<<10)
				for i, s := range ends {
					for _, flow := range taggedFlows(s, ends[1-i]) {
						one := &stream{flow: flow, data: randomBytes(10000), size: 1200}
						offload(t, s.Container, one.gsoPackets(t, 10)...)
					}
				}
				exchange(t, a, b, 1) // behind what is still on its way
			})
			for i := range engines {
				frames := wired(t, ears[1-i], ends[i].Underlay)
				if least := 4*640 + 2*36 + 2*(128<<10)/9000; len(frames) < least {
					t.Errorf("engine %d sent %d frames, want %d", i, len(frames), least)
				}
				all = append(all, frames...)
			}
		})
	}
	e := shark.Look(t, testPort, all)
	for i, n := range e.Numbers(wiretest.Amiss) {
		c := cs[0]
		for k := range cs {
			if first[k] < n {
				c = cs[k]
			}
		}
		if counts[c.name]++; counts[c.name] == 1 && i < 100 {
			t.Errorf("%s: frame %d of %d is amiss:\n%s", c.name, n-first[0], len(all), e.Explain(n))
		}
	}
	t.Logf("%d frames", len(all))
	if inner := len(e.Numbers("vxlan.vni == 100 && (tcp || (udp.port == 5001 || udp.length > 1000))")); inner < len(all)/2 {
		t.Errorf("%d of %d frames carry a segment", inner, len(all))
	}
	if tagged := len(e.Numbers("vxlan && vlan.id == 100")); tagged < len(cs)*36 {
		t.Errorf("%d tagged segments, want %d", tagged, len(cs)*36)
	}
}
