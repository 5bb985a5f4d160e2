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
)

// localMACFor is how long after the last frame of our own that came back the
// warning of it stands.
const localMACFor = 10 * time.Minute

// warnings are what an operator should look at although traffic flows, and what
// no line of the log says as it happens.
func (d *daemon) warnings(s dataplane.Stats) []string {
	around, err := d.host.Surroundings()
	if err != nil {
		return append([]string{err.Error()}, d.warnTraffic(s)...)
	}
	return append(d.warnKernel(around), d.warnTraffic(s)...)
}

// warnKernel is what devices of the kernel's own may do to the networks.
func (d *daemon) warnKernel(around host.Surroundings) []string {
	var all []string
	if len(d.conf().IPIP) > 0 && len(around.IPIP) > 0 {
		all = append(all, fmt.Sprintf("the kernel has IP-in-IP too (%s): it decapsulates what the tunnels here take a second time, "+
			"or answers the peers that nobody wants it; unload the module with `modprobe -r ipip`", strings.Join(around.IPIP, ", ")))
	}
	var ports []uint16
	for _, v := range d.conf().VXLAN {
		if !slices.Contains(ports, v.Port) {
			ports = append(ports, v.Port)
			all = append(all, around.Clashes(v.Port)...)
		}
	}
	return all
}

// warnTraffic is what the counters tell.
func (d *daemon) warnTraffic(s dataplane.Stats) []string {
	var all []string
	for _, n := range s.Networks {
		if n.Frozen > 0 {
			all = append(all, fmt.Sprintf("network %s: %d MACs moved too often and are frozen: a loop, one MAC twice, or an impostor; "+
				"`overtap fdb show --network %s --frozen` names them", n.Network, n.Frozen, n.Network))
		}
	}
	all = append(all, warnPeers(s.Peers)...)
	for _, back := range d.ownFrames.look(s, time.Now()) {
		all = append(all, fmt.Sprintf("network %s: %d frames of this host's own came back, the last %s: there is a loop, or another host has the TAP's MAC",
			back.network, back.count, ago(back.age)))
	}
	return all
}

// warnPeers is what probes tell: of peers that answered once and do not any more,
// and of paths that swallow what they do not take. A peer that never answered may
// be no overtap.
func warnPeers(peers []dataplane.PeerStats) []string {
	silent, narrow := make(map[string][]string), make(map[string][]string)
	for _, p := range peers {
		switch {
		case p.Probe == nil:
		case p.Answered && !p.Alive:
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

// ago says how long ago something was seen that is looked for once a minute.
func ago(t time.Duration) string {
	if t < 2*time.Minute {
		return "just now"
	}
	return fmt.Sprintf("%d minutes ago", int(t.Minutes()))
}

// standing are warnings of how the host is set up: the log tells of these when
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
	containers := make(map[string][]host.Container) // by bridge
	for _, a := range attached {
		c := host.Container{Name: "container " + a.Target, Veth: a.Veth, MTU: a.MTU}
		if a.IfName != "" {
			c.Name += " (" + a.IfName + ")"
		}
		containers[a.Bridge] = append(containers[a.Bridge], c)
	}
	var all []string
	for _, n := range networks {
		if n.Bridge != "" {
			all = append(all, around.MTUs(n, own, containers[n.Bridge])...)
		}
	}
	if d.conf().Engine.Offload {
		all = append(all, missingOffloads(info)...)
	}
	if info.SegmentationRefused {
		all = append(all, "the route to some peer refuses segmentation offload (UDP_SEGMENT): every datagram is sent alone there; "+
			"look at tx-checksumming in `ethtool -k "+cmp.Or(d.conf().Underlay.Device, "DEVICE")+"`, turn it on with `ethtool -K`, and restart")
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

// missingOffloads names what the kernel did not grant to devices.
func missingOffloads(info dataplane.Info) []string {
	var all []string
	for _, o := range offloads {
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
