package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// Bequest is what an engine leaves to another that takes its place, in this
// process or in another: the open queues and sockets, so that what waits in them
// is not lost and no peer sees other source ports. It is plain data but for the
// file descriptors, which are passed by SCM_RIGHTS in the order of Each.
type Bequest struct {
	Workers int             `json:"workers"`
	Devices []BequestDevice `json:"devices"`
	Ports   []BequestPort   `json:"ports"`
	// IPIP are the raw sockets: the one that receives, then those that send, by
	// worker.
	IPIP []int `json:"ipip"`
	// DF and Frag are the sockets of the pool of source ports, and SourcePorts
	// the ports of DF, then of Frag.
	DF          []int    `json:"df"`
	Frag        []int    `json:"frag"`
	SourcePorts []uint16 `json:"source_ports"`
}

// BequestDevice are the queues of a TAP or TUN, by worker.
type BequestDevice struct {
	Name     string   `json:"name"`
	TUN      bool     `json:"tun"`
	Plain    bool     `json:"plain"`
	Offloads []string `json:"offloads"`
	FDs      []int    `json:"fds"`
}

// BequestPort are the sockets of a UDP port by worker, or the one of a multicast
// group on it.
type BequestPort struct {
	Port  uint16     `json:"port"`
	Group netip.Addr `json:"group,omitzero"`
	FDs   []int      `json:"fds"`
}

// Each calls f with every file descriptor, in an order that depends on the other
// data alone, until f fails.
func (b *Bequest) Each(f func(fd *int) error) error {
	lists := [][]int{b.IPIP, b.DF, b.Frag}
	for _, d := range b.Devices {
		lists = append(lists, d.FDs)
	}
	for _, p := range b.Ports {
		lists = append(lists, p.FDs)
	}
	for _, fds := range lists {
		for i := range fds {
			if err := f(&fds[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes the descriptors that no engine has made its own, for whoever
// received them.
func (b *Bequest) Close() {
	_ = b.Each(func(fd *int) error { return unix.Close(*fd) })
	*b = Bequest{}
}

// Bequeath returns what another engine may inherit. The descriptors are this
// engine's until it ends; two engines may have them open, but only one at work.
func (e *Engine) Bequeath() (*Bequest, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	edges, ok := e.edges.(*hostEdges)
	if !ok {
		return nil, fmt.Errorf("edges of type %T cannot be left to another engine", e.edges)
	}
	b := &Bequest{Workers: e.workers}
	for _, m := range e.catalogue.Load().members {
		o := m.base()
		if o.lost.Load() {
			continue // it will be opened anew
		}
		b.Devices = append(b.Devices, o.bequeath(m))
	}
	for at, wires := range e.wires {
		if at != protocol4 {
			p := BequestPort{Port: at.port, Group: at.group}
			for _, w := range wires {
				p.FDs = append(p.FDs, w.FD())
			}
			b.Ports = append(b.Ports, p)
			continue
		}
		for i, w := range wires {
			w := w.(*ipipWire)
			if i == 0 {
				b.IPIP = append(b.IPIP, w.rx)
			}
			b.IPIP = append(b.IPIP, w.tx)
		}
	}
	b.DF, b.Frag = slices.Clone(edges.sources.df), slices.Clone(edges.sources.frag)
	for i := range edges.sources.ports {
		b.SourcePorts = append(b.SourcePorts, uint16(edges.sources.ports[i].Load()))
	}
	return b, nil
}

func (o *overlay) bequeath(m member) BequestDevice {
	d := BequestDevice{Offloads: slices.Clone(o.devices[0].Offloads())}
	switch m := m.(type) {
	case *network:
		d.Name, d.Plain = m.config.Device, m.config.Plain
	case *tunnel:
		d.Name, d.Plain, d.TUN = m.config.Device, m.config.Plain, true
	}
	for _, q := range o.devices {
		d.FDs = append(d.FDs, q.FD())
	}
	return d
}

// Persist makes the device of a network or tunnel outlive this process, however
// that ends, but for Close and its removal by Apply.
func (e *Engine) Persist(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.catalogue.Load().members {
		o := m.base()
		if o.name != name || o.keeps || e.closed {
			continue
		}
		if err := o.devices[0].Persist(true); err != nil {
			return fmt.Errorf("%s: make its device persistent: %w", name, err)
		}
		o.keeps = true
	}
	return nil
}

// What follows takes from a Bequest what this engine can use; of a nil one that is
// nothing.

// device returns the queues of the device that s describes, nil when there are
// none.
func (b *Bequest) device(s DeviceSpec) ([]Device, error) {
	if b == nil {
		return nil, nil
	}
	i := slices.IndexFunc(b.Devices, func(d BequestDevice) bool { return d.Name == s.Name })
	if i < 0 {
		return nil, nil
	}
	d := b.Devices[i]
	if d.TUN != s.TUN || d.Plain != s.Plain || len(d.FDs) != s.Queues {
		return nil, fmt.Errorf("the device %s works, and cannot become one of another kind (TAP, TUN, offload) meanwhile", s.Name)
	}
	if err := keepsMAC(s); err != nil {
		return nil, err
	}
	if err := configureTap(s); err != nil {
		return nil, fmt.Errorf("go on with %s %s: %w", s.kind(), s.Name, err)
	}
	b.Devices = slices.Delete(b.Devices, i, i+1)
	vnetLen := 0
	if !d.Plain {
		vnetLen = encap.VnetHdrLen
	}
	var queues []Device
	for _, fd := range d.FDs {
		queues = append(queues, &tapQueue{fd: fd, vnetLen: vnetLen, offloads: d.Offloads})
	}
	return queues, nil
}

// port returns the sockets of an endpoint, nil when there are none.
func (b *Bequest) port(port uint16, group netip.Addr) []int {
	if b == nil {
		return nil
	}
	i := slices.IndexFunc(b.Ports, func(p BequestPort) bool { return p.Port == port && p.Group == group })
	if i < 0 {
		return nil
	}
	fds := b.Ports[i].FDs
	b.Ports = slices.Delete(b.Ports, i, i+1)
	return fds
}

// ipip returns the raw sockets; tx is nil when there are none.
func (b *Bequest) ipip() (rx int, tx []int) {
	if b == nil || len(b.IPIP) != b.Workers+1 {
		return -1, nil
	}
	rx, tx = b.IPIP[0], b.IPIP[1:]
	b.IPIP = nil
	return rx, tx
}

// sources returns the pool of n source ports, nil when that is not of that size.
func (b *Bequest) sources(n int) *sourcePool {
	if b == nil || len(b.DF) != n || len(b.Frag) != n || len(b.SourcePorts) != 2*n {
		return nil
	}
	p := &sourcePool{df: b.DF, frag: b.Frag, ports: make([]atomic.Uint32, 2*n)}
	for i, port := range b.SourcePorts {
		p.ports[i].Store(uint32(port))
	}
	b.DF, b.Frag, b.SourcePorts = nil, nil, nil
	return p
}

// Restore learns what another engine had learned, as old as it is, where this one
// knows nothing newer, and returns how many entries it took. Entries that are not
// learned, of networks that are not here, or behind peers that are not admitted,
// are left out.
func (e *Engine) Restore(entries []FDBEntry) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, ErrClosed
	}
	networks := make(map[string]*network)
	for _, n := range e.catalogue.Load().networks {
		networks[n.name] = n
	}
	count := 0
	for i := range entries {
		x := &entries[i]
		n := networks[x.Network]
		if n == nil || n.config.VNI != x.VNI || !n.config.Learning || x.Origin != fdb.Learned.String() || !x.MAC.IsSource() || x.MAC == n.config.MAC {
			continue
		}
		id, _ := n.peers.Admit(x.Peer)
		if id == fdb.NoPeer || n.peers.Pinned(id) {
			continue
		}
		if n.table.Restore(x.MAC, id, x.Age, x.Frozen) {
			count++
		}
	}
	return count, nil
}
