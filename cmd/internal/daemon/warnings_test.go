package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"overtap/cmd/internal/attach"
	"overtap/dataplane"
	"overtap/encap"
)

// warned returns the status' warnings, a line each.
func (r *running) warned(t *testing.T) string {
	t.Helper()
	s, err := r.client.Status(t.Context())
	do(t, err)
	return strings.Join(s.Warnings, "\n")
}

// What may harm the networks is named in the status while it lasts.
func TestWarnings(t *testing.T) {
	underlay(t)
	ns := space(t, "c1")
	r, o := prepare(t, twoNetworks)
	r.engine.offloads = []string{"csum", "tso4", "tso6", "ecn", "uso", "steering"}
	start(t, r, o)
	if text := r.warned(t); text != "" {
		t.Errorf("nothing is amiss: %s", text)
	}

	// A container, and a port of the bridge, with the MTU of the underlay.
	made, err := r.client.Attach(t.Context(), ns, attach.Request{
		Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
	do(t, err)
	if text := r.warned(t); text != "" {
		t.Errorf("the container has the network's MTU: %s", text)
	}
	do(t, netlink.LinkSetMTU(by(t, made.Veth), 1500))
	if text := r.warned(t); text != "" {
		t.Errorf("what counts is the container's end: %s", text)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	do(t, err)
	defer h.Close()
	inside, err := h.LinkByName("eth0")
	do(t, err)
	do(t, h.LinkSetMTU(inside, 1500))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = "p1", 1500, by(t, "br-blue").Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "p2"}
	do(t, netlink.LinkAdd(port))
	defer netlink.LinkDel(port)
	if text := r.warned(t); !strings.Contains(text, "container c1 (eth0), port p1 have an MTU of 1500, network blue 1450: ") ||
		strings.Contains(text, "\n") {
		t.Errorf("MTUs: %s", text)
	}
	do(t, netlink.LinkDel(port))
	do(t, h.LinkSetMTU(inside, 1450))

	// A kernel device on a port of ours.
	attrs.Name, attrs.MTU, attrs.MasterIndex = "vx-old", 0, 0
	clash := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 5, Port: 4789}
	do(t, netlink.LinkAdd(clash))
	if text := r.warned(t); !strings.Contains(text, "vxlan device vx-old has UDP port 4789 too") {
		t.Errorf("a clash: %s", text)
	}
	do(t, netlink.LinkDel(clash))

	// What the kernel does not grant.
	r.engine.mu.Lock()
	r.engine.offloads = []string{"csum", "tso4", "tso6", "ecn"}
	r.engine.mu.Unlock()
	if text := r.warned(t); !strings.Contains(text, "the kernel does not grant uso to blue, red: UDP comes a packet at a time") ||
		!strings.Contains(text, "does not grant steering to blue, red") || strings.Contains(text, "csum") {
		t.Errorf("offloads: %s", text)
	}

	// Frames of our own that come back, just now.
	r.engine.mu.Lock()
	r.engine.drops = []dataplane.DropStats{{Network: "red", Direction: dataplane.Inbound, Reason: dataplane.DropLocalMAC, Count: 3}}
	r.engine.mu.Unlock()
	if text := r.warned(t); !strings.Contains(text, "network red: 3 frames of this host's own came back, the last just now") {
		t.Errorf("a loop: %s", text)
	}
	_, err = r.client.Detach(t.Context(), ns, attach.Selector{Network: "blue", Target: "c1"})
	do(t, err)
	do(t, r.end(t))
}

// Without offload = true no key asks for what the kernel does not grant.
func TestNoOffloadsWanted(t *testing.T) {
	underlay(t)
	r, o := prepare(t, "[engine]\noffload = false\n"+twoNetworks)
	r.engine.offloads = []string{"none", "of them"}
	start(t, r, o)
	if text := r.warned(t); text != "" {
		t.Error(text)
	}
	do(t, r.end(t))
}

// The warning of frames that came back goes some time after the last of them, and
// comes again with the next.
// What the kernel refused before the daemon came is no warning; what it refuses
// afterwards is, for a while.
func TestChecksumsRefused(t *testing.T) {
	var g growth
	now := time.Now()
	for _, step := range []struct {
		after  time.Duration
		count  uint64
		grown  uint64
		recent bool
	}{
		{0, 100, 0, false}, {time.Minute, 100, 0, false}, {0, 103, 3, true},
		{checksumsFor - 1, 103, 3, true}, {1, 103, 3, false}, {0, 104, 4, true},
		{0, 7, 0, false}, {0, 8, 1, true}, // another namespace, or a reboot
	} {
		now = now.Add(step.after)
		if grown, age := g.look(step.count, now); grown != step.grown || (age < checksumsFor) != step.recent {
			t.Errorf("%d: grown by %d %v ago, want %d, recently: %t", step.count, grown, age, step.grown, step.recent)
		}
	}
}

func TestOwnFrames(t *testing.T) {
	var o ownFrames
	at := time.Unix(1e9, 0)
	stats := func(count uint64) (s dataplane.Stats) {
		if count > 0 {
			s.Drops = []dataplane.DropStats{
				{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropTooBig, Count: 9},
				{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropLocalMAC, Count: count},
			}
		}
		return s
	}
	for _, step := range []struct {
		after time.Duration
		count uint64
		age   time.Duration // of the warning; negative = none
	}{
		{0, 0, -1},
		{time.Minute, 2, 0},
		{time.Minute, 2, time.Minute},
		{localMACFor - 2*time.Minute, 2, localMACFor - time.Minute},
		{time.Minute, 2, -1},
		{time.Hour, 2, -1},
		{time.Hour, 3, 0},
		{time.Minute, 0, -1}, // the engine was opened again
		{time.Minute, 3, 0},
		{time.Minute, 1, 0}, // and once more, between two looks
	} {
		at = at.Add(step.after)
		back := o.look(stats(step.count), at)
		switch {
		case step.age < 0:
			if len(back) != 0 {
				t.Errorf("%+v: %+v", step, back)
			}
		case len(back) != 1 || back[0] != (cameBack{"blue", step.count, step.age}):
			t.Errorf("%+v: %+v", step, back)
		}
	}
	for age, want := range map[time.Duration]string{0: "just now", 119 * time.Second: "just now", 150 * time.Second: "2 minutes ago", 9 * time.Minute: "9 minutes ago"} {
		if got := ago(age); got != want {
			t.Errorf("%v is %q, want %q", age, got, want)
		}
	}
}

// A peer whose frames have a VNI that no network has is named, as long as it sends them.
func TestWarnVNI(t *testing.T) {
	peer, other, now := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), time.Now()
	for _, c := range []struct {
		name string
		drop dataplane.DropStats
		want int
	}{
		{"a peer", dataplane.DropStats{Reason: dataplane.DropVXLANVNINotFound, LastPeer: peer, Last: now.Add(-time.Second)}, 1},
		{"long ago", dataplane.DropStats{Reason: dataplane.DropVXLANVNINotFound, LastPeer: peer, Last: now.Add(-vniFor)}, 0},
		{"no peer", dataplane.DropStats{Reason: dataplane.DropVXLANVNINotFound, LastPeer: other, Last: now}, 0},
		{"another reason", dataplane.DropStats{Reason: dataplane.DropTooShort, LastPeer: peer, Last: now}, 0},
	} {
		got := warnVNI(dataplane.Stats{
			Peers: []dataplane.PeerStats{{Network: "blue", Peer: peer}},
			Drops: []dataplane.DropStats{c.drop},
		}, now)
		if len(got) != c.want || c.want > 0 && !strings.HasPrefix(got[0], "peer 192.0.2.2 sends frames of a VNI that no network here has on that port (vxlan_vni_not_found): ") {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// Peers that went are named, and paths that swallow what is long without a word;
// peers that never answered are no overtap, and reported paths are known.
func TestWarnPeers(t *testing.T) {
	peer := func(last byte, pmtu encap.UnderlayMTU, p *dataplane.Probe) dataplane.PeerStats {
		return dataplane.PeerStats{Network: "blue", Peer: netip.AddrFrom4([4]byte{192, 0, 2, last}), PathMTU: pmtu, Probe: p}
	}
	lost := peer(7, 0, &dataplane.Probe{Answered: true, UnansweredSince: time.Now().Add(-time.Minute), FullMTU: 1500})
	lost.State = dataplane.PeerLost
	got := strings.Join(warnPeers([]dataplane.PeerStats{
		peer(2, 0, nil),
		peer(3, 0, &dataplane.Probe{Alive: true, Answered: true, VerifiedMTU: 1500, FullMTU: 1500}),
		peer(4, 0, &dataplane.Probe{UnansweredSince: time.Now(), FullMTU: 1500}),
		peer(5, 1400, &dataplane.Probe{Alive: true, Answered: true, VerifiedMTU: 1400, FullMTU: 1500}),
		peer(6, 0, &dataplane.Probe{Alive: true, Answered: true, VerifiedMTU: 1397, FullMTU: 1500}),
		lost,
	}), "\n")
	want := "network blue: peers answered probes before and do not now: 192.0.2.7 (for 1m0s): they or the way to them are down\n" +
		"network blue: the path takes shorter packets than the network sends, and no router says so (ICMP is filtered): to 192.0.2.6 (1397): " +
		"lower the network's mtu, or widen the path"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
