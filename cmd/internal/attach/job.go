package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/bridgeport"
	"overtap/cmd/internal/host"
	"overtap/encap"
)

// carrierTime bounds the wait for a new veth pair's carrier, which is there in
// milliseconds unless the machine is overloaded.
const carrierTime = 2 * time.Second

// treeTime bounds the wait for a spanning tree: twice the greatest forward delay
// (30 s, IEEE 802.1D table 17-1) and some.
const treeTime = 65 * time.Second

// job is one attachment in the making.
type job struct {
	Request
	network Network
	ns      *os.File

	host   *netlink.Handle          // of the bridge's namespace
	raw    map[int]*nl.SocketHandle // of the same
	change func(index int) (done func(*Attachment))
	done   func(*Attachment) // set once the pair is made
	inside *netlink.Handle   // of the target's
	bridge netlink.Link
	veth   netlink.Link // the end on the bridge
	device netlink.Link // the end in the target
	undoes []func() error
}

func (j *job) close() {
	if j.inside != nil {
		j.inside.Close()
	}
}

// steps returns what is to be done once prepare has found that it can be, in
// order. Each puts on the list what undoes it.
func (j *job) steps() []func(context.Context) error {
	return []func(context.Context) error{
		j.probe, j.makePair, j.joinBridge, j.bringUp, j.setAddresses, j.setRoutes, j.announce,
	}
}

// undo undoes what was done, the last first, and returns what failed of it.
func (j *job) undo() (errs []error) {
	for _, f := range slices.Backward(j.undoes) {
		if err := f(); err != nil && !notThere(err) {
			errs = append(errs, err)
		}
	}
	return errs
}

// makePair makes the veth pair, one end in the target at once, and marks the
// other.
func (j *job) makePair(context.Context) error {
	attrs := netlink.NewLinkAttrs()
	attrs.MTU = int(j.network.MTU)
	// A bridge without an address of its own takes its ports' lowest: let that
	// not be this one, which comes and goes (br_stp_recalculate_bridge_id).
	attrs.HardwareAddr = hardwareAddr(0xfe<<40 | encap.MAC(rand.Uint64N(1<<40)))
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerMTU = j.IfName, uint32(j.network.MTU)
	pair.PeerHardwareAddr = hardwareAddr(j.MAC)
	pair.PeerNamespace = netlink.NsFd(j.ns.Fd())

	var err error
	for range 3 { // until the name is free
		pair.Name = fmt.Sprintf("otveth%08x", rand.Uint32())
		if err = j.host.LinkAdd(pair); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("making a veth pair, %s in it: %w", j.IfName, err)
	}
	j.undoes = append(j.undoes, func() error {
		// By name, for the index is not known yet; the kernel deletes both ends.
		l, err := j.host.LinkByName(pair.Name)
		if err == nil {
			err = j.host.LinkDel(l)
		}
		if err != nil {
			return fmt.Errorf("removing %s again: %w", pair.Name, err)
		}
		if j.done != nil {
			j.done(nil)
		}
		return nil
	})
	if j.veth, err = j.host.LinkByName(pair.Name); err != nil {
		return fmt.Errorf("looking for %s just made: %w", pair.Name, err)
	}
	j.done = j.change(j.veth.Attrs().Index) // before the mark by which Track knows it
	if j.device, err = j.inside.LinkByName(j.IfName); err != nil {
		return fmt.Errorf("looking for %s just made in it: %w", j.IfName, err)
	}
	if err := j.host.LinkSetAlias(j.veth, mark(j.network.Name, j.Target)); err != nil {
		return fmt.Errorf("marking %s as ours: %w", pair.Name, err)
	}
	return nil
}

// joinBridge makes the host's end a port of the bridge.
func (j *job) joinBridge(context.Context) error {
	name := j.veth.Attrs().Name
	// Before it comes up: a port is no host of its own.
	err := j.host.LinkSetIP6AddrGenMode(j.veth, nl.IN6_ADDR_GEN_MODE_NONE)
	// inet6_validate_link_af: this kernel, or a device of this MTU, has no IPv6.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turning IPv6 addresses off on %s: %w", name, err)
	}
	// A port takes no advertisement, but it outlives its bridge. Where /proc/sys is
	// read-only that is left as it is.
	_, _ = host.NoAutoconf(name)
	if err := j.host.LinkSetMaster(j.veth, j.bridge); err != nil {
		return fmt.Errorf("making %s a port of %s: %w", name, j.network.Bridge, err)
	}
	return nil
}

// bringUp brings both ends up, and the target's loopback, and waits until
// frames pass.
func (j *job) bringUp(ctx context.Context) error {
	if err := j.loopbackUp(); err != nil {
		return err
	}
	if slices.ContainsFunc(j.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := j.allowIPv6(); err != nil {
			return err
		}
	}
	if err := j.inside.LinkSetUp(j.device); err != nil {
		return fmt.Errorf("bringing %s up in it: %w", j.IfName, err)
	}
	if err := j.host.LinkSetUp(j.veth); err != nil {
		return fmt.Errorf("bringing %s up: %w", j.veth.Attrs().Name, err)
	}
	if err := j.awaitCarrier(ctx); err != nil {
		return err
	}
	return j.awaitForwarding(ctx, j.veth.Attrs())
}

func (j *job) loopbackUp() error {
	lo, err := j.inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("looking for its loopback: %w", err)
	}
	if lo.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := j.inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing its loopback up: %w", err)
	}
	j.undoes = append(j.undoes, func() error {
		if err := j.inside.LinkSetDown(lo); err != nil {
			return fmt.Errorf("taking its loopback down again: %w", err)
		}
		return nil
	})
	return nil
}

// allowIPv6 turns IPv6 on for the new device where the target's default is off,
// as container engines set it: the kernel would refuse the address (EACCES,
// ipv6_add_addr).
func (j *job) allowIPv6() error {
	path := "/proc/sys/net/ipv6/conf/" + j.IfName + "/disable_ipv6"
	err := inside(j.ns, func() error {
		b, err := os.ReadFile(path)
		if err != nil || len(b) > 0 && b[0] == '0' {
			return err
		}
		return os.WriteFile(path, []byte("0"), 0)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it has no IPv6, nor has this kernel: leave the IPv6 addresses out")
	case err != nil:
		return fmt.Errorf("turning IPv6 on for %s in it: %w", j.IfName, err)
	}
	return nil
}

// awaitCarrier waits until both ends carry frames. The kernel says so after the
// fact, from a work queue (linkwatch_do_dev); until then the bridge keeps its
// port blocked.
func (j *job) awaitCarrier(ctx context.Context) error {
	deadline := time.Now().Add(carrierTime)
	for {
		outer, err := j.host.LinkByIndex(j.veth.Attrs().Index)
		if err != nil {
			return fmt.Errorf("waiting for the carrier of %s: %w", j.veth.Attrs().Name, err)
		}
		inner, err := j.inside.LinkByIndex(j.device.Attrs().Index)
		if err != nil {
			return fmt.Errorf("waiting for the carrier of %s in it: %w", j.IfName, err)
		}
		if outer.Attrs().OperState == netlink.OperUp && inner.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no carrier after %v", j.IfName, carrierTime)
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitForwarding waits until the port passes frames, and no other port of the
// bridge is about to, so that everyone who is there hears a question asked on the
// bridge. A spanning tree takes twice the bridge's forward delay for that.
func (j *job) awaitForwarding(ctx context.Context, port *netlink.LinkAttrs) error {
	begun := time.Now()
	for {
		ports, err := bridgeport.List(j.raw)
		if err != nil {
			return err
		}
		p, known := ports[port.Index]
		waits := known && p.State != bridgeport.Forwarding
		starting := false
		for _, other := range ports {
			starting = starting || other.Bridge == j.bridge.Attrs().Index && other.State.Starting()
		}
		if !waits && !starting {
			return nil
		}
		limit := carrierTime
		if starting {
			limit = treeTime
		}
		switch {
		case time.Since(begun) < limit:
		case waits:
			return fmt.Errorf("the spanning tree of %s keeps the port %s %s: look at `bridge link show dev %s`", j.network.Bridge, port.Name, p.State, port.Name)
		default:
			return fmt.Errorf("after %v a port of %s still does not forward: look at `bridge link show`", limit, j.network.Bridge)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// probe looks whether a host or container on the network, or this host, has one of
// the addresses. The bridge asks: see frame.go.
func (j *job) probe(ctx context.Context) error {
	if err := j.checkHost(); err != nil {
		return err
	}
	tap := &netlink.LinkAttrs{} // of no index where there is none
	if j.network.Device != "" {
		l, err := j.host.LinkByName(j.network.Device)
		if err != nil {
			return fmt.Errorf("looking for the network's device %s: %w", j.network.Device, err)
		}
		tap = l.Attrs()
	}
	if err := j.awaitForwarding(ctx, tap); err != nil {
		return fmt.Errorf("its addresses may be taken, and the network cannot be asked: %w", err)
	}
	bridge, err := j.host.LinkByIndex(j.bridge.Attrs().Index)
	if err != nil {
		return fmt.Errorf("looking for the network's bridge %s: %w", j.network.Bridge, err)
	}
	asker := macOf(bridge)
	if asker == 0 {
		return nil // it has no port, and had none for long: there is no one to ask
	}
	w, err := openWire(nil, bridge.Attrs().Index)
	if err != nil {
		return fmt.Errorf("looking whether its addresses are free: %w", err)
	}
	defer w.close()
	err = w.probe(ctx, j.plainAddresses(), asker)
	var taken takenError
	if err != nil && !errors.As(err, &taken) {
		return fmt.Errorf("looking whether its addresses are free: %w", err)
	}
	return err
}

// checkHost looks whether this host has one of the addresses, which does not hear
// its own bridge ask. Linux answers for an IPv4 address on every device, for an
// IPv6 address on the one that has it.
func (j *job) checkHost() error {
	have, err := untorn(func() ([]netlink.Addr, error) { return j.host.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing this host's addresses: %w", err)
	}
	for _, h := range have {
		ip, _ := netip.AddrFromSlice(h.IP)
		for _, p := range j.Addresses {
			if p.Addr() == ip.Unmap() && (p.Addr().Is4() || h.LinkIndex == j.bridge.Attrs().Index) {
				return fmt.Errorf("the address %s is taken, by this host itself: choose another", p.Addr())
			}
		}
	}
	return nil
}

func (j *job) plainAddresses() []netip.Addr {
	out := make([]netip.Addr, len(j.Addresses))
	for i, p := range j.Addresses {
		out[i] = p.Addr()
	}
	return out
}

// setAddresses gives the device its addresses, usable at once.
func (j *job) setAddresses(context.Context) error {
	for _, p := range j.Addresses {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // the probe was it
		}
		if err := j.inside.AddrAdd(j.device, a); err != nil {
			return fmt.Errorf("adding the address %s to %s in it: %w", p, j.IfName, err)
		}
	}
	return nil
}

// setRoutes sets the default routes.
func (j *job) setRoutes(context.Context) error {
	for _, g := range j.Gateways {
		bits := g.BitLen()
		err := j.inside.RouteAdd(&netlink.Route{
			LinkIndex: j.device.Attrs().Index,
			Dst:       &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
			Gw:        g.AsSlice(),
		})
		if err != nil {
			return fmt.Errorf("adding a default route by way of %s in it: %w", g, err)
		}
	}
	return nil
}

// announce says to the network where the addresses are.
func (j *job) announce(ctx context.Context) error {
	w, err := openWire(j.ns, j.device.Attrs().Index)
	if err == nil {
		defer w.close()
		err = w.announce(ctx, j.plainAddresses(), j.MAC)
	}
	if err != nil {
		return fmt.Errorf("announcing its addresses: %w", err)
	}
	return nil
}

func (j *job) made() Made {
	return Made{
		Attachment: Attachment{
			Network: j.network.Name, Target: j.Target,
			IfName: j.IfName, MAC: j.MAC, MTU: j.network.MTU, Addresses: j.Addresses,
			Veth: j.veth.Attrs().Name, Bridge: j.network.Bridge,
		},
		Gateways: j.Gateways,
	}
}

// macOf is a link's MAC, 0 when it has none: a bridge takes that of a port
// (br_stp_recalculate_bridge_id).
func macOf(l netlink.Link) encap.MAC {
	if a := l.Attrs().HardwareAddr; len(a) == encap.MACLen {
		return encap.MACFrom(a)
	}
	return 0
}

func hardwareAddr(m encap.MAC) net.HardwareAddr {
	b := make(net.HardwareAddr, encap.MACLen)
	m.Put(b)
	return b
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
