package netlab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// VXLANSpec says what a vxlan device of the kernel must be. The zero value of
// every field but Name, VNI and Local is what `ip link add type vxlan` does
// unasked, except that Port is 4789.
type VXLANSpec struct {
	Name   string
	VNI    encap.VNI
	Port   uint16     // UDP, ours and the peers'; 0 = 4789
	Local  netip.Addr // outer source address
	Remote netip.Addr // one peer, or the multicast group, that unknown frames go to; invalid = none
	Dev    string     // underlay device; a group needs it
	Flood  []netip.Addr

	NoLearning     bool
	Suppress       bool  // swarm's flags: proxy l2miss l3miss
	ZeroChecksum   bool  // send UDP checksums of zero
	AcceptZeroSum6 bool  // take them over IPv6 (over IPv4 the kernel always does)
	TTL            uint8 // 0 = the host's default
	TOS            uint8 // 1 = inherit
	DF             bool

	Bridge string    // to become a port of; "" = none
	MAC    encap.MAC // 0 = random
	MTU    int       // bytes; 0 = the kernel's choice
}

// Attributes newer than the netlink module's list (linux/if_link.h).
const iflaVXLANDF = 29

// AddVXLAN makes the kernel's own vxlan device: the peer that tests talk to and
// the baseline of the benchmarks.
func (h *Host) AddVXLAN(s VXLANSpec) error {
	if err := h.createVXLAN(s); err != nil {
		return fmt.Errorf("host %s: add vxlan %s: %w", h.name, s.Name, err)
	}
	if s.MAC != 0 {
		if err := h.SetMAC(s.Name, s.MAC); err != nil {
			return err
		}
	}
	if s.MTU != 0 {
		if err := h.SetMTU(s.Name, s.MTU); err != nil {
			return err
		}
	}
	for _, peer := range s.Flood {
		if err := h.AddFDB(s.Name, 0, peer); err != nil {
			return err
		}
	}
	if s.Bridge != "" {
		if err := h.SetMaster(s.Name, s.Bridge); err != nil {
			return err
		}
	}
	return h.SetUp(s.Name)
}

// createVXLAN sends the request by hand, for netlink.Vxlan can not ask for zero
// UDP checksums over IPv4.
func (h *Host) createVXLAN(s VXLANSpec) error {
	link := 0
	if s.Dev != "" {
		err := h.onLink("look up", s.Dev, func(_ *netlink.Handle, l netlink.Link) error {
			link = l.Attrs().Index
			return nil
		})
		if err != nil {
			return err
		}
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(s.VNI)))
	port := s.Port
	if port == 0 {
		port = 4789
	}
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, port))
	addAddr := func(a netip.Addr, v4, v6 int) {
		switch {
		case a.Is4():
			data.AddRtAttr(v4, a.AsSlice())
		case a.Is6():
			data.AddRtAttr(v6, a.AsSlice())
		}
	}
	addAddr(s.Local, nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6)
	addAddr(s.Remote, nl.IFLA_VXLAN_GROUP, nl.IFLA_VXLAN_GROUP6)
	if link != 0 {
		data.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(link)))
	}
	for _, f := range []struct {
		attr int
		on   bool
	}{
		{nl.IFLA_VXLAN_LEARNING, !s.NoLearning},
		{nl.IFLA_VXLAN_PROXY, s.Suppress},
		{nl.IFLA_VXLAN_L2MISS, s.Suppress},
		{nl.IFLA_VXLAN_L3MISS, s.Suppress},
		{nl.IFLA_VXLAN_UDP_CSUM, !s.ZeroChecksum},
		{nl.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, s.ZeroChecksum},
		{nl.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, s.AcceptZeroSum6},
		{iflaVXLANDF, s.DF},
	} {
		v := uint8(0)
		if f.on {
			v = 1
		}
		data.AddRtAttr(f.attr, nl.Uint8Attr(v))
	}
	data.AddRtAttr(nl.IFLA_VXLAN_TTL, nl.Uint8Attr(s.TTL))
	data.AddRtAttr(nl.IFLA_VXLAN_TOS, nl.Uint8Attr(s.TOS))

	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s.Name)))
	req.AddData(info)
	return h.Do(func() error {
		// Without a handle's sockets the request opens one of its own, here.
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// HaveKernelVXLAN reports whether this kernel can make vxlan devices, by making
// one in a namespace that is thrown away. It needs root; the answer is cached.
var HaveKernelVXLAN = sync.OnceValue(func() bool {
	err := onThread(unshare, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "probe"
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789})
	})
	return err == nil
})
