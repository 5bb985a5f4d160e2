package interop

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
)

// quiet returns the counters of daemons once nothing moves any more.
func quiet(t *testing.T, daemons ...*daemon) (now []dataplane.Stats) {
	t.Helper()
	eventually(t, "a quiet network", func() error {
		before := now
		now = nil
		for _, d := range daemons {
			now = append(now, d.stats())
		}
		still := func(a, b dataplane.Stats) bool {
			moved := func(p, q dataplane.PeerStats) bool { return p.Peer == q.Peer && p.Traffic == q.Traffic }
			return slices.EqualFunc(a.Peers, b.Peers, moved) && slices.Equal(a.Drops, b.Drops)
		}
		if !slices.EqualFunc(before, now, still) {
			time.Sleep(100 * time.Millisecond)
			return errors.New("frames are on their way")
		}
		return nil
	})
	return now
}

// toward is what one daemon has sent to the other host, and that one received
// from it, dropped or not.
func toward(from, to dataplane.Stats, a, b *netlab.Site) (sent, received dataplane.Traffic) {
	for _, p := range from.Peers {
		if p.Peer == b.Underlay {
			sent = p.Traffic
		}
	}
	for _, p := range to.Peers {
		if p.Peer == a.Underlay {
			received = p.Traffic
		}
	}
	for _, d := range to.Drops {
		if d.Direction == dataplane.Inbound {
			received.RxPackets += d.Count
		}
	}
	return sent, received
}

// What one host says that it sent to another is what that one says it received,
// frame by frame and byte by byte, cut or whole.
func TestConservationBetweenHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spec  netlab.SiteSpec
		plain bool
	}{
		{name: "all offloads"},
		{name: "v6 without tunnel segmentation", spec: netlab.SiteSpec{V6: true, Offload: netlab.NoTunnelSegmentation}},
		{name: "plain TAPs without offloads", spec: netlab.SiteSpec{Offload: netlab.NoOffloads}, plain: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			sites := must[[]*netlab.Site](t)(netlabtest.New(t).Sites(c.spec))
			var d []*daemon
			for _, s := range sites {
				conf := at(s, blue(s, sites...))
				if c.plain {
					conf.engine = append(conf.engine, "offload = false")
				}
				d = append(d, start(t, s.Host, conf))
			}
			reaches(t, sites[0].Container, sites[1].IPv4)
			before := quiet(t, d...)
			exchange(t, sites[0], sites[1], 2<<20)
			after := quiet(t, d...)
			for x := range d {
				y := 1 - x
				wasSent, wasReceived := toward(before[x], before[y], sites[x], sites[y])
				sent, received := toward(after[x], after[y], sites[x], sites[y])
				packets, bytes := sent.TxPackets-wasSent.TxPackets, sent.TxBytes-wasSent.TxBytes
				got, gotBytes := received.RxPackets-wasReceived.RxPackets, received.RxBytes-wasReceived.RxBytes
				what := fmt.Sprintf("%s sent %d frames, %d bytes; %s received %d, %d",
					sites[x].Host.Name(), packets, bytes, sites[y].Host.Name(), got, gotBytes)
				t.Log(what)
				if packets != got || bytes != gotBytes || packets < 1000 {
					t.Errorf("%s\ndropped: %+v", what, d[y].dropped())
				}
			}
		})
	}
}
