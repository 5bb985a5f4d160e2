package interop

import (
	"fmt"
	"slices"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
)

// Frames with 802.1Q and 802.1ad tags cross each way as they are, or, with
// vlan = "drop", are dropped each way under their name.
func TestTaggedFrames(t *testing.T) {
	t.Parallel()
	tags := [][]uint32{
		{0x8100_002a},              // VLAN 42
		{0x8100_e001},              // VLAN 1 of priority 7
		{0x8100_0000},              // a priority tag
		{0x88a8_0064, 0x8100_002a}, // VLAN 42 in service VLAN 100
	}
	for _, c := range []struct {
		name, line string
		arrives    bool
	}{
		{"default", "", true},
		{"pass", `vlan = "pass"`, true},
		{"drop", `vlan = "drop"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			d := start(t, a.Host, at(a, blue(a, sites...).with(c.line)))
			ears := listen(t, sites)
			for _, way := range []struct {
				from, to *netlab.Site
				dir      dataplane.Direction
			}{{a, b, dataplane.Outbound}, {b, a, dataplane.Inbound}} {
				var frames [][]byte
				for i, tag := range tags {
					for _, size := range []int{46, 1400} {
						frames = append(frames, ethernet(way.to.MAC, way.from.MAC, tag, etherTest, marked(size, "%d", i)))
					}
				}
				arrived, dropped := len(frames), 0
				if !c.arrives {
					arrived, dropped = dropped, arrived
				}
				ears[way.from].send(frames...)
				eventually(t, fmt.Sprintf("%v: the drops", way.dir), func() error {
					if got := d.drops("blue", way.dir, dataplane.DropVLANTagged); got != uint64(dropped) {
						return fmt.Errorf("%d counted as vlan_tagged, want %d", got, dropped)
					}
					return nil
				})
				copies := map[string]int{}
				got := ears[way.to].arrivals(arrived, func(s seen) bool {
					copies[string(s.data)]++
					return s.src() == way.from.MAC && slices.Contains([]uint16{0x8100, 0x88a8, etherTest}, s.etherType())
				})
				if len(got) != arrived {
					t.Errorf("%v: %d tagged frames arrived, want %d", way.dir, len(got), arrived)
				}
				for _, f := range frames {
					if c.arrives && copies[string(f)] != 1 {
						t.Errorf("%v: %d copies of the frame % x… arrived, want 1", way.dir, copies[string(f)], f[:22])
					}
				}
			}
			for _, f := range flows(a, b) {
				f.ping(t, netlab.PingOptions{})
			}
		})
	}
}
