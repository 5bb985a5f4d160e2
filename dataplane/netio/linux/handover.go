package linux

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// ExportHandover implements netio.Backend.
func (e *Backend) ExportHandover(o netio.Open) (*netio.Handover, error) {
	b := &netio.Handover{Workers: e.Workers}
	for _, d := range o.Devices {
		h := netio.HandoverDevice{Name: d.Name, TUN: d.TUN, Plain: d.Plain, Offloads: slices.Clone(d.Queues[0].Offloads())}
		for _, q := range d.Queues {
			h.FDs = append(h.FDs, q.FD())
		}
		b.Devices = append(b.Devices, h)
	}
	for _, c := range o.Conns {
		if !c.IPIP {
			p := netio.HandoverPort{Port: c.Port, Group: c.Group}
			for _, conn := range c.Conns {
				p.FDs = append(p.FDs, conn.FD())
			}
			b.Ports = append(b.Ports, p)
			continue
		}
		for i, conn := range c.Conns {
			conn := conn.(*ipipConn)
			if i == 0 {
				b.IPIP = append(b.IPIP, conn.rx)
			}
			b.IPIP = append(b.IPIP, conn.tx)
		}
	}
	b.DF, b.Frag = slices.Clone(e.sources.df), slices.Clone(e.sources.frag)
	for i := range e.sources.ports {
		b.SourcePorts = append(b.SourcePorts, uint16(e.sources.ports[i].Load()))
	}
	return b, nil
}

// inherited is what another backend left, of which this one takes what it can use. A
// nil Handover has nothing.
type inherited struct{ *netio.Handover }

// device returns the queues of the device that s describes, nil when there are
// none.
func (b *inherited) device(s netio.DeviceSpec) ([]netio.Device, error) {
	if b.Handover == nil {
		return nil, nil
	}
	i := slices.IndexFunc(b.Devices, func(d netio.HandoverDevice) bool { return d.Name == s.Name })
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
		return nil, fmt.Errorf("go on with %s %s: %w", s.Kind(), s.Name, err)
	}
	vnetLen := 0
	if !d.Plain {
		vnetLen = encap.VnetHdrLen
		granted, err := setOffloads(d.FDs[0], s) // they are the device's, not the queue's
		if err != nil {
			return nil, fmt.Errorf("go on with %s %s: %w", s.Kind(), s.Name, err)
		}
		if slices.Contains(d.Offloads, steered) {
			granted = append(slices.Clone(granted), steered)
		}
		d.Offloads = granted
	}
	b.Devices = slices.Delete(b.Devices, i, i+1)
	var queues []netio.Device
	for _, fd := range d.FDs {
		queues = append(queues, &tapQueue{fd: fd, vnetLen: vnetLen, offloads: d.Offloads})
	}
	return queues, nil
}

// udp returns the sockets of an endpoint, nil when there are none.
func (b *inherited) udp(port uint16, group netip.Addr) []int {
	if b.Handover == nil {
		return nil
	}
	i := slices.IndexFunc(b.Ports, func(p netio.HandoverPort) bool { return p.Port == port && p.Group == group })
	if i < 0 {
		return nil
	}
	fds := b.Ports[i].FDs
	b.Ports = slices.Delete(b.Ports, i, i+1)
	return fds
}

// ipip returns the raw sockets; tx is nil when there are none.
func (b *inherited) ipip() (rx int, tx []int) {
	if b.Handover == nil || len(b.IPIP) != b.Workers+1 {
		return -1, nil
	}
	rx, tx = b.IPIP[0], b.IPIP[1:]
	b.IPIP = nil
	return rx, tx
}

// sources returns the pool of n source ports, nil when that is not of that size.
func (b *inherited) sources(n int) *sourcePool {
	if b.Handover == nil || len(b.DF) != n || len(b.Frag) != n || len(b.SourcePorts) != 2*n {
		return nil
	}
	p := &sourcePool{df: b.DF, frag: b.Frag, ports: make([]atomic.Uint32, 2*n), now: time.Now}
	for i, port := range b.SourcePorts {
		p.ports[i].Store(uint32(port))
	}
	b.DF, b.Frag, b.SourcePorts = nil, nil, nil
	return p
}
