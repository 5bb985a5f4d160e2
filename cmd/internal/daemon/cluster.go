package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/cluster"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

const (
	// publishEvery is how often what is attached is looked at, for what no order
	// brought about: a container that ended.
	publishEvery = 5 * time.Second
	// settleView is how long changes of the view are gathered before they are applied,
	// and applyApart how far apart two of these are.
	settleView = 20 * time.Millisecond
	applyApart = 200 * time.Millisecond
	// bindAgain is after how long the sockets are tried again, which the daemon before
	// may still have.
	bindAgain = 200 * time.Millisecond
)

// members is the daemon's part in a cluster.
type members struct {
	viewed    chan struct{} // delivers when the view changed
	republish chan struct{} // delivers when the record may have

	mu       sync.Mutex
	gossip   *cluster.Gossip // nil = the sockets are not open
	problem  string          // why they are not
	problems []string        // what of the view was not applied
	allot    sync.Mutex      // held while an address is chosen and given out
}

func newMembers() members {
	return members{viewed: make(chan struct{}, 1), republish: make(chan struct{}, 1)}
}

func (m *members) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *members) current() *cluster.Gossip {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gossip
}

// signal has the receiver of c look once more.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// nodeName is this host's name in the cluster.
func (d *daemon) nodeName() (string, error) {
	if name := d.conf().Cluster.Node; name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err == nil {
		err = cluster.CheckName(name)
	}
	if err != nil {
		return "", fmt.Errorf("the hostname %q: %w: set cluster.node", name, err)
	}
	return name, nil
}

// checkCluster is an error when the cluster cannot be joined as it is configured.
func (d *daemon) checkCluster() error {
	c := d.conf().Cluster
	if !c.On {
		return nil
	}
	_, err := d.nodeName()
	if c.KeyFile != "" {
		_, keyErr := cluster.ReadKeys(c.KeyFile)
		err = errors.Join(err, keyErr)
	}
	return err
}

// followCluster takes part in the cluster until ctx ends.
func (d *daemon) followCluster(ctx context.Context) error {
	if !d.conf().Cluster.On {
		return nil
	}
	g := d.openCluster(ctx)
	if g == nil {
		return nil
	}
	run, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() { g.Run(run) })
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	g.Publish(d.record(g.View()))
	var applied time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.members.viewed:
			time.Sleep(max(settleView, applyApart-time.Since(applied)))
			d.applyView(g.View())
			applied = time.Now()
		case <-d.members.republish:
			g.Publish(d.record(g.View()))
		case <-tick.C:
			g.Publish(d.record(g.View()))
		}
	}
	stop()
	d.members.set(func() { d.members.gossip = nil })
	// A daemon that takes over is the same member.
	if err := g.Close(!d.yielded.Load()); err != nil {
		d.Log.Warn("leaving the cluster", "err", err)
	}
	wait.Wait()
	return nil
}

// openCluster opens the sockets, again and again; nil when ctx ended.
func (d *daemon) openCluster(ctx context.Context) *cluster.Gossip {
	c := d.conf().Cluster
	name, err := d.nodeName()
	for err != nil || d.waiting() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bindAgain):
			name, err = d.nodeName()
		}
	}
	for {
		g, err := cluster.Open(cluster.Options{
			Node: cluster.Node{Name: name, VTEP: d.conf().Underlay.Address, Version: d.Version},
			Bind: c.Bind, Join: c.Join, KeyFile: c.KeyFile, TTL: c.TTL, Log: d.Log, Limit: &d.limit,
			Changed: func() { signal(d.members.viewed) },
		})
		if err == nil {
			d.mu.Lock()
			seed := d.view
			d.mu.Unlock()
			if seed != nil {
				g.Seed(seed.Members)
			}
			d.members.set(func() { d.members.gossip, d.members.problem = g, "" })
			return g
		}
		d.members.set(func() {
			d.members.problem = fmt.Sprintf("cluster: %v: see what else listens there (ss -lnp), or set cluster.bind", err)
		})
		d.limit.Warn("cluster open", d.Log, "not in the cluster: trying again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bindAgain):
		}
	}
}

// record is what this host has for the others.
func (d *daemon) record(v *cluster.View) cluster.Record {
	d.mu.Lock()
	base, hosts := d.base, d.hostNetworks()
	d.mu.Unlock()
	r := cluster.Record{Networks: []cluster.Network{}, Endpoints: []cluster.Endpoint{}}
	keys := make(map[string]cluster.Key)
	for i := range base.Networks {
		n := &base.Networks[i]
		if c := d.conf().Network(n.Name); c.Cluster {
			keys[n.Name] = cluster.KeyOf(n)
			r.Networks = append(r.Networks, cluster.Network{Key: cluster.KeyOf(n), MTU: n.MTU, MAC: n.MAC, Range: c.Range})
		}
	}
	attached, err := d.attach.List(hosts)
	if err != nil {
		d.limit.Warn("attachments", d.Log, "cannot list what is attached", "err", err)
	}
	type claim struct {
		cluster.Key
		mac encap.MAC
	}
	seen := make(map[claim]bool)
	for _, a := range attached {
		key, ok := keys[a.Network]
		if !ok || !a.MAC.IsSource() || seen[claim{key, a.MAC}] {
			continue
		}
		seen[claim{key, a.MAC}] = true
		e := cluster.Endpoint{Key: key, MAC: a.MAC, Addresses: []netip.Addr{}, Name: a.Target, Sequence: v.NextSequence(key, a.MAC)}
		for _, p := range a.Addresses[:min(len(a.Addresses), cluster.MaxAddresses)] {
			e.Addresses = append(e.Addresses, p.Addr())
		}
		r.Endpoints = append(r.Endpoints, e)
	}
	return r
}

// applyView makes the engine forward by the view. After an error what was before holds.
func (d *daemon) applyView(v *cluster.View) {
	d.lock()
	defer d.mu.Unlock()
	if d.closed || d.waits || d.yielded.Load() {
		return
	}
	was := d.view
	d.view = v
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		d.view = was
		d.members.set(func() {
			d.members.problems = []string{fmt.Sprintf("cluster: what the members have is not applied, what was before holds: %v", err)}
		})
		d.limit.Warn("cluster apply", d.Log, "what the members of the cluster have is not applied: what was before holds", "err", err)
	}
}

// addMembers adds to a network what the cluster has of it. The caller holds mu.
func (d *daemon) addMembers(n *dataplane.Network) (problems []string) {
	c := d.conf().Network(n.Name)
	if !c.Cluster || d.view == nil {
		return nil
	}
	own := d.conf().Underlay.Address
	a := d.view.Additions(n, max(0, n.MaxEntries-n.Bound()), func(peer netip.Addr) error {
		if err := dataplane.CheckPeer(peer, own); err != nil {
			return err
		}
		if p, network, inward := d.conf().Inward(peer); inward {
			return fmt.Errorf("is in the prefix %s, which leads into the network %s", p, network)
		}
		if c.Subnet.IsValid() && c.Subnet.Contains(peer) {
			return fmt.Errorf("is in the network's subnet %s", c.Subnet)
		}
		return nil
	})
	n.Peers = append(slices.Clip(n.Peers), a.Peers...)
	n.FDB = append(n.FDB, a.FDB...)
	n.Neighbors = append(slices.Clip(n.Neighbors), a.Neighbors...)
	for _, p := range a.Problems {
		problems = append(problems, fmt.Sprintf("cluster, network %s: %s", n.Name, p))
	}
	if other := d.view.RangeClash(cluster.KeyOf(n), c.Range); other != "" {
		problems = append(problems, fmt.Sprintf("cluster, network %s: the range %s is also given out by %s: set another range on one of them", n.Name, c.Range, other))
	}
	return problems
}

// clusterWarnings are what is wrong with the cluster. Networks work on without it.
func (d *daemon) clusterWarnings() []string {
	if !d.conf().Cluster.On {
		return nil
	}
	d.members.mu.Lock()
	defer d.members.mu.Unlock()
	all := slices.Clone(d.members.problems)
	if d.members.problem != "" {
		all = append(all, d.members.problem)
	}
	if g := d.members.gossip; g != nil {
		all = append(all, g.Problems()...)
	}
	return all
}

// rekey reads the cluster's keys again.
func (d *daemon) rekey() error {
	if g := d.members.current(); g != nil {
		return g.Rekey()
	}
	return nil
}

// clusterState is for the metrics: how many members are alive, and when a record was
// fetched last; ok is false where there is no cluster.
func (d *daemon) clusterState() (alive int, synced time.Time, ok bool) {
	g := d.members.current()
	if g == nil {
		return 0, time.Time{}, d.conf().Cluster.On
	}
	v := g.View()
	for i := range v.Members {
		m := &v.Members[i]
		if m.Alive {
			alive++
		}
		if m.Node.Name != v.Self && m.Synced.After(synced) {
			synced = m.Synced
		}
	}
	return alive, synced, true
}

// Cluster implements control.Daemon.
func (d *daemon) Cluster() (control.Cluster, error) {
	if !d.conf().Cluster.On {
		return control.Cluster{}, fmt.Errorf("this daemon is in no cluster: give it a [cluster] in %s, and restart it", d.Path)
	}
	c := control.Cluster{Backend: "gossip", Problems: d.clusterWarnings()}
	if name, err := d.nodeName(); err == nil {
		c.Node = name
	}
	d.mu.Lock()
	names := make(map[cluster.Key]string)
	for i := range d.base.Networks {
		names[cluster.KeyOf(&d.base.Networks[i])] = d.base.Networks[i].Name
	}
	d.mu.Unlock()
	if g := d.members.current(); g != nil {
		c.Refused = g.Refused()
		v := g.View()
		for i := range v.Members {
			m := &v.Members[i]
			self := m.Node.Name == v.Self
			one := control.ClusterMember{Node: m.Node.Name, VTEP: m.Node.VTEP, Version: m.Node.Version, Self: self, Alive: m.Alive,
				Networks: len(m.Networks), Endpoints: len(m.Endpoints), Synced: m.Synced}
			c.Members = append(c.Members, one)
			for j := range m.Endpoints {
				e := &m.Endpoints[j]
				c.Endpoints = append(c.Endpoints, control.ClusterEndpoint{Network: names[e.Key], VNI: e.VNI, Port: e.Port, MAC: e.MAC,
					Addresses: e.Addresses, Name: e.Name, Node: m.Node.Name, VTEP: m.Node.VTEP, Sequence: e.Sequence, Holds: v.Holds(e)})
			}
		}
	}
	attached, err := d.attach.List(d.overlays())
	if err != nil {
		return c, err
	}
	for _, a := range attached {
		r := d.conf().Network(a.Network).Range
		for _, p := range a.Addresses {
			if r.IsValid() && r.Contains(p.Addr()) {
				c.Addresses = append(c.Addresses, control.ClusterAddress{Network: a.Network, Range: r, Address: p.Addr(), Target: a.Target, MAC: a.MAC})
			}
		}
	}
	return c, nil
}

// maxCandidates bounds the addresses that are looked at for a free one.
const maxCandidates = 1 << 16

// freeAddress is an address of the network's range that no container here has, none of
// another member, and not this host. The caller holds members.allot until it is attached.
func (d *daemon) freeAddress(n dataplane.Network, attached []attach.Attachment) (netip.Prefix, error) {
	c := d.conf().Network(n.Name)
	if !c.Range.IsValid() {
		return netip.Prefix{}, fmt.Errorf("network %s has no range, of which this host could give out an address: set subnet and range in its [[vxlan]], or name an address with --address ADDRESS/LENGTH", n.Name)
	}
	used := make(map[netip.Addr]bool)
	for _, a := range attached {
		for _, p := range a.Addresses {
			used[p.Addr()] = true
		}
	}
	for _, p := range c.Addresses {
		used[p.Addr()] = true
	}
	for _, x := range n.Neighbors {
		used[x.Address] = true
	}
	if g := d.members.current(); g != nil {
		for a := range g.View().Holders(cluster.KeyOf(&n)) {
			used[a] = true
		}
	}
	last := lastOf(c.Subnet)
	a := c.Range.Addr()
	for range maxCandidates {
		if !c.Range.Contains(a) {
			break
		}
		// The first of the subnet is the network or the routers' anycast address, the
		// last of an IPv4 one the broadcast address.
		if !used[a] && a != c.Subnet.Addr() && !(a.Is4() && a == last && c.Subnet.Bits() < 31) {
			return netip.PrefixFrom(a, c.Subnet.Bits()), nil
		}
		a = a.Next()
	}
	return netip.Prefix{}, fmt.Errorf("no address of the range %s of network %s is free: detach a container, or give it a larger range", c.Range, n.Name)
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
