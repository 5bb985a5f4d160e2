package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/dataplane/netio"
)

// localMACFor is how long after the last frame of our own that came back the
// warning of it stands.
const localMACFor = 10 * time.Minute

// unlistedFor is how long after the last frame from a MAC without an entry the
// warning of it stands.
const unlistedFor = 10 * time.Minute

// warnings are what an operator should look at although traffic flows, and what
// no line of the log says as it happens.
func (d *daemon) warnings(s dataplane.Stats) []string {
	all := d.warnTraffic(s)
	if w := d.way.Load(); w != nil {
		all = append(w.warnings(), all...)
	}
	around, err := d.host.Surroundings()
	if err != nil {
		return append([]string{err.Error()}, all...)
	}
	return append(d.warnKernel(around), all...)
}

// warnKernel is what devices of the kernel's own may do to the networks.
func (d *daemon) warnKernel(around host.Surroundings) []string {
	var all []string
	if len(d.conf().IPIP) > 0 && len(around.IPIP) > 0 {
		all = append(all, fmt.Sprintf("the kernel has IP-in-IP too (%s): it decapsulates what the tunnels here take a second time, "+
			"or answers the peers that it is not wanted; %s", strings.Join(around.IPIP, ", "), around.IPIPRemedy()))
	}
	for _, n := range d.overlays() {
		if text := host.Advertisements(n); text != "" {
			all = append(all, text)
		}
	}
	for _, port := range d.conf().Ports() {
		all = append(all, around.Clashes(port)...)
	}
	return all
}

// warnTraffic is what the counters show.
func (d *daemon) warnTraffic(s dataplane.Stats) []string {
	var all []string
	for _, n := range s.Networks {
		if n.Frozen > 0 {
			all = append(all, fmt.Sprintf("network %s: %d MACs moved too often and are frozen: a loop, one MAC twice, or an impostor; "+
				"`overtap fdb show --network %s --frozen` names them", n.Network, n.Frozen, n.Network))
		}
	}
	all = append(all, warnUnlisted(s.Networks)...)
	for _, n := range s.Networks {
		if n.MovesSaturated {
			all = append(all, fmt.Sprintf("network %s: more MACs move between hosts than are counted: a loop, or peers that claim MACs of others; "+
				"`overtap fdb monitor --network %s` shows them, and macs of [[vxlan.peer]] ends it", n.Network, n.Network))
		}
	}
	all = append(all, warnPeers(s.Peers)...)
	all = append(all, d.warnNever(s.Peers)...)
	all = append(all, warnVNI(s, time.Now())...)
	if refused, age := d.checksums.look(s.ChecksumErrors, time.Now()); age < checksumsFor {
		text := fmt.Sprintf("the kernel refused %d datagrams for their UDP checksum, the last %s: they are damaged on the way", refused, ago(age))
		if d.conf().Underlay.Address.Is6() {
			text += ", or a peer sends checksums of zero over IPv6, which udp6zerocsumrx = true takes"
		}
		all = append(all, text)
	}
	for _, back := range d.ownFrames.look(s, time.Now()) {
		all = append(all, fmt.Sprintf("network %s: %d frames of this host's own came back, the last %s: there is a loop, or another host has the TAP's MAC",
			back.network, back.count, ago(back.age)))
	}
	return all
}

// warnUnlisted names networks with static entries that learn nothing, and whose
// peers send from other MACs lately. What is sent to such a peer does not arrive,
// and nothing here can count that.
func warnUnlisted(networks []dataplane.NetworkStats) []string {
	var all []string
	for _, n := range networks {
		if u := n.Unlisted; u != nil && time.Duration(u.Age)*time.Second < unlistedFor {
			all = append(all, fmt.Sprintf("network %s: %d frames came from MACs without an entry, and the network does not learn: the last from %s, peer %s; "+
				"if its device got a new MAC (a flannel node does at a restart), change its [[vxlan.fdb]] and [[vxlan.neighbor]]",
				n.Network, n.UnlistedSources, u.MAC, u.Peer))
		}
	}
	return all
}

// warnPeers is what probes show: peers that answered once and do not any more,
// and of paths that swallow what they do not take. A peer that never answered may
// be no overtap.
func warnPeers(peers []dataplane.PeerStats) []string {
	silent, narrow := make(map[string][]string), make(map[string][]string)
	for _, p := range peers {
		switch {
		case p.Probe == nil:
		case p.State == dataplane.PeerLost:
			silent[p.Network] = append(silent[p.Network], fmt.Sprintf("%s (for %v)", p.Peer, time.Since(p.UnansweredSince).Round(time.Second)))
		case p.IsNarrow() && p.VerifiedMTU < p.PathMTU, p.IsNarrow() && p.PathMTU == 0:
			narrow[p.Network] = append(narrow[p.Network], fmt.Sprintf("%s (%d)", p.Peer, p.VerifiedMTU))
		}
	}
	var all []string
	for _, network := range slices.Sorted(maps.Keys(silent)) {
		all = append(all, fmt.Sprintf("network %s: peers answered probes before and do not now: %s: they or the way to them are down", network, host.Some(silent[network])))
	}
	for _, network := range slices.Sorted(maps.Keys(narrow)) {
		all = append(all, fmt.Sprintf("network %s: the path takes shorter packets than the network sends, and no router says so (ICMP is filtered): to %s: "+
			"lower the network's mtu, or widen the path", network, host.Some(narrow[network])))
	}
	return all
}

// vniFor is how long a frame of an unknown VNI is worth a warning: a peer that runs
// overtap sends another with its next probe.
const vniFor = time.Minute

// warnVNI names the peer, one of this host's own, that sent the last frame of a VNI
// that no network here has: most likely the two ends have different ones. Frames of
// other senders are counted only.
func warnVNI(s dataplane.Stats, now time.Time) []string {
	var all []string
	for _, drop := range s.Drops {
		if drop.Reason != dataplane.DropVXLANVNINotFound || now.Sub(drop.Last) >= vniFor {
			continue
		}
		if slices.ContainsFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Peer == drop.LastPeer }) {
			all = append(all, fmt.Sprintf("peer %s sends frames of a VNI that no network here has on that port (%s): compare vni and port at both ends",
				drop.LastPeer, drop.Reason))
		}
	}
	return all
}

// ago says how long ago something was seen that is looked for once a minute.
func ago(t time.Duration) string {
	if t < 2*time.Minute {
		return "just now"
	}
	return fmt.Sprintf("%d minutes ago", int(t.Minutes()))
}

// standing are warnings of how the host is set up: they are logged when
// they come to be, if at all, and the rest costs throughput only.
func (d *daemon) standing(info dataplane.Info, attached []attach.Attachment) []string {
	around, err := d.host.Surroundings()
	if err != nil {
		return nil // warnings has said so
	}
	own := make(map[string]bool)
	networks := d.overlays()
	for _, n := range networks {
		own[n.Device] = true
	}
	on := make(map[string][]host.Container) // by bridge
	for i, c := range containers(attached) {
		on[attached[i].Bridge] = append(on[attached[i].Bridge], c)
	}
	var all []string
	for _, n := range networks {
		if n.Bridge != "" {
			all = append(all, around.MTUs(n, own, on[n.Bridge])...)
		}
	}
	if d.conf().Engine.Offload {
		all = append(all, missingOffloads(info, d.conf().Offload)...)
	}
	for _, o := range info.Offloads {
		switch {
		case o.State == dataplane.OffloadSuspended && o.Name == "udp_segment":
			all = append(all, fmt.Sprintf("segmentation offload (udp_segment) is given up until %s where it was refused, and every datagram is sent alone there: %s; "+
				"look at tx-checksumming in `ethtool -k %s`, and turn it on with `ethtool -K`", o.Until.Format(time.TimeOnly), o.Reason, cmp.Or(d.conf().Underlay.Device, "DEVICE")))
		case o.State == dataplane.OffloadSuspended:
			all = append(all, fmt.Sprintf("%s is given up until %s: %s: nothing is lost, but it costs throughput; look for a newer kernel", o.Name, o.Until.Format(time.TimeOnly), o.Reason))
		case o.State == dataplane.OffloadUnsupported && strings.HasPrefix(o.Name, "udp_"):
			all = append(all, fmt.Sprintf("%s is not at work: %s: datagrams pass the kernel one by one", o.Name, o.Reason))
		}
	}
	return all
}

// offloads are those that a device should have, with what is lost without it.
var offloads = []struct{ name, lost string }{
	{"csum", "every checksum is finished in user space"},
	{"tso4", "TCP over IPv4 comes a packet at a time"},
	{"tso6", "TCP over IPv6 comes a packet at a time"},
	{"ecn", "TCP with ECN comes a packet at a time"},
	{"uso", "UDP comes a packet at a time, before kernel 6.2"},
	{"steering", "a flow may change workers, and be reordered"},
}

// missingOffloads names what the kernel did not grant to devices, and was asked for.
func missingOffloads(info dataplane.Info, off netio.Offloads) []string {
	var all []string
	for _, o := range offloads {
		if off.NoTAPGSO && slices.Contains([]string{"tso4", "tso6", "ecn", "uso"}, o.name) || off.NoTAPUSO && o.name == "uso" {
			continue
		}
		var without []string
		for _, n := range info.Networks {
			needless := o.name == "steering" && n.Queues < 2
			if n.Queues > 0 && !needless && !slices.Contains(n.Offloads, o.name) {
				without = append(without, n.Device)
			}
		}
		if len(without) > 0 {
			all = append(all, fmt.Sprintf("the kernel does not grant %s to %s: %s", o.name, host.Some(without), o.lost))
		}
	}
	return all
}

// ownFrames remembers of each network when frames of our own came back last: the
// counter alone is of a whole life.
type ownFrames struct {
	mu sync.Mutex
	of map[string]sighting
}

// checksumsFor is how long after the last datagram that the kernel refused for its
// checksum the warning of it stands.
const checksumsFor = 10 * time.Minute

// growth remembers when a counter of the host grew last. What it was at first says
// nothing: it counts from before the daemon.
type growth struct {
	mu    sync.Mutex
	known bool
	first uint64
	sighting
}

// look returns how far the counter grew since the first look, and how long ago it was
// found to have.
func (g *growth) look(count uint64, now time.Time) (uint64, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.known || count < g.count:
		g.known, g.first, g.sighting = true, count, sighting{count: count}
	case count > g.count:
		g.sighting = sighting{count, now}
	}
	return g.count - g.first, now.Sub(g.at)
}

// sighting is what a counter was, and when it changed last.
type sighting struct {
	count uint64
	at    time.Time
}

// cameBack is a network whose own frames came back lately.
type cameBack struct {
	network string
	count   uint64
	age     time.Duration
}

// look compares the counters with those before, and returns the networks where
// one changed within localMACFor.
func (o *ownFrames) look(s dataplane.Stats, now time.Time) (lately []cameBack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of = make(map[string]sighting)
	}
	seen := make(map[string]bool)
	for _, drop := range s.Drops {
		if drop.Reason != dataplane.DropLocalMAC {
			continue
		}
		seen[drop.Network] = true
		was := o.of[drop.Network]
		if was.count != drop.Count {
			was = sighting{drop.Count, now}
			o.of[drop.Network] = was
		}
		if age := now.Sub(was.at); age < localMACFor {
			lately = append(lately, cameBack{drop.Network, drop.Count, age})
		}
	}
	for network := range o.of {
		if !seen[network] {
			delete(o.of, network) // it is gone, or counts from zero again
		}
	}
	return lately
}
