package attach

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// prepare looks at the host and at the target, fills in what the request leaves
// open, and changes nothing.
func (j *job) prepare() error {
	if err := checkNamespace(j.ns); err != nil {
		return err
	}
	own, err := isOwn(j.ns)
	switch {
	case err != nil:
		return err
	case own:
		return errors.New("it is in the host's own network namespace, not in one of its own: " +
			"give the host an address on the network by the key addresses")
	}
	if j.bridge, err = j.host.LinkByName(j.network.Bridge); err != nil {
		return fmt.Errorf("looking for the network's bridge %s: %w", j.network.Bridge, err)
	}
	err = inside(j.ns, func() (err error) {
		j.inside, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a netlink socket in it: %w", err)
	}
	if err := j.chooseIfName(); err != nil {
		return err
	}
	if j.MAC.IsZero() {
		j.MAC = addressMAC(j.Addresses)
	}
	if j.MAC == macOf(j.bridge) {
		return fmt.Errorf("the MAC %s is that of the network's bridge %s: choose another", j.MAC, j.network.Bridge)
	}
	if err := j.checkAddresses(); err != nil {
		return err
	}
	return j.checkRoutes()
}

// chooseIfName checks that the device's name is free, or chooses a free one.
func (j *job) chooseIfName() error {
	links, err := untorn(j.inside.LinkList)
	if err != nil {
		return fmt.Errorf("listing its devices: %w", err)
	}
	taken := make(map[string]bool)
	for _, l := range links {
		taken[l.Attrs().Name] = true
	}
	switch {
	case taken[j.IfName]:
		return fmt.Errorf("it has a device %s already: choose another name with --ifname", j.IfName)
	case j.IfName == "":
		i := 0
		for taken["eth"+strconv.Itoa(i)] {
			i++
		}
		j.IfName = "eth" + strconv.Itoa(i)
	}
	return nil
}

// checkAddresses looks whether the target has one of the addresses already,
// which no answer to a probe need say.
func (j *job) checkAddresses() error {
	have, err := untorn(func() ([]netlink.Addr, error) { return j.inside.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing its addresses: %w", err)
	}
	for _, h := range have {
		ip, _ := netip.AddrFromSlice(h.IP)
		for _, p := range j.Addresses {
			if p.Addr() == ip.Unmap() {
				return fmt.Errorf("it has the address %s already: choose another", p.Addr())
			}
		}
	}
	return nil
}

// checkRoutes looks for default routes in the way of the gateways'.
func (j *job) checkRoutes() error {
	for _, g := range j.Gateways {
		have, err := untorn(func() ([]netlink.Route, error) { return j.inside.RouteList(nil, family(g)) })
		if err != nil {
			return fmt.Errorf("listing its routes: %w", err)
		}
		for _, r := range have {
			if isDefault(r) {
				return fmt.Errorf("it has a default route already, by way of %s: leave the gateway %s out, or remove that route", j.hop(r), g)
			}
		}
	}
	return nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return r.Type == unix.RTN_UNICAST
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Type == unix.RTN_UNICAST
}

// hop names where a route leads.
func (j *job) hop(r netlink.Route) string {
	if r.Gw != nil {
		return r.Gw.String()
	}
	if l, err := j.inside.LinkByIndex(r.LinkIndex); err == nil {
		return l.Attrs().Name
	}
	return "several hops"
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// addressMAC returns the MAC of a container that was given none: 02:42 and the
// first IPv4 address, as container engines make it, else one from the first
// IPv6 address. A container that comes back has the MAC that caches hold, and
// static entries can name it beforehand.
func addressMAC(addresses []netip.Prefix) encap.MAC {
	for _, p := range addresses {
		if p.Addr().Is4() {
			b := p.Addr().As4()
			return 0x0242<<32 | encap.MAC(binary.BigEndian.Uint32(b[:]))
		}
	}
	sum := sha256.Sum256(addresses[0].Addr().AsSlice())
	sum[0] = sum[0]&^1 | 2 // unicast, locally administered (IEEE 802 clause 8.2)
	return encap.MACFrom(sum[:])
}
