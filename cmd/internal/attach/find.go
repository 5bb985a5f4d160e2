package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// aliasStart begins the mark on the host's end of an attachment (IFLA_IFALIAS,
// shown by `ip link`). The network and the target follow.
const aliasStart = "overtap attach "

func mark(network, target string) string { return aliasStart + network + " " + target }

// marked reads a mark. A network's name has no spaces.
func marked(alias string) (network, target string, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasStart)
	if !ok {
		return "", "", false
	}
	network, target, ok = strings.Cut(rest, " ")
	return network, target, ok && network != "" && target != ""
}

// noNamespace is the id of a namespace that this one has no number for.
const noNamespace = -1

// found is an attachment and what the kernel knows it by.
type found struct {
	Attachment
	index int // of the host's end
	nsid  int // the target's namespace, as this one numbers it
}

// List returns the networks' attachments, and those that are on no bridge for
// now, sorted.
func (a *Attacher) List(networks []Network) ([]Attachment, error) {
	all, _, err := a.find(networks, nil)
	if err != nil {
		return nil, err
	}
	out := make([]Attachment, len(all))
	for i, f := range all {
		out[i] = f.Attachment
	}
	sortAttachments(out)
	return out, nil
}

// find looks for marked veths. Those on another bridge than that of the network
// they name are another daemon's, or no longer ours. What is known of
// one, by its index, is not asked for again. The indexes of all marked veths are in
// there.
func (a *Attacher) find(networks []Network, known map[int]Attachment) (out []found, there map[int]bool, err error) {
	links, err := untorn(a.nl.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing links: %w", err)
	}
	there = make(map[int]bool)
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		at := l.Attrs()
		network, target, ok := marked(at.Alias)
		if !ok || l.Type() != "veth" {
			continue
		}
		there[at.Index] = true
		bridge := ""
		if at.MasterIndex != 0 {
			bridge = names[at.MasterIndex]
			if !slices.ContainsFunc(networks, func(n Network) bool { return n.Name == network && n.Bridge == bridge }) {
				continue
			}
		}
		f := found{
			Attachment: Attachment{
				Network: network, Target: target, Veth: at.Name, Bridge: bridge,
				MTU: encap.OverlayMTU(min(at.MTU, 1<<16-1)), Addresses: []netip.Prefix{},
			},
			index: at.Index, nsid: at.NetNsID,
		}
		if was, ok := known[at.Index]; ok && was.Network == network && was.Target == target {
			f.Attachment = was
			f.Veth, f.Bridge = at.Name, bridge
			out = append(out, f)
			continue
		}
		if err := a.look(&f, at.ParentIndex); err != nil {
			if notThere(err) {
				continue // its container died this moment
			}
			if !unsupported(err) {
				return nil, nil, fmt.Errorf("looking at the other end of %s: %w", at.Name, err)
			}
		}
		out = append(out, f)
	}
	return out, there, nil
}

// unsupported reports whether the kernel cannot look into other namespaces, or
// not into this one from here (rtnl_get_net_ns_capable).
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

// look fills in what the target's end says, the device of the given index. It is
// asked from here by the namespace's number.
func (a *Attacher) look(f *found, index int) error {
	if f.nsid == noNamespace || !a.strict {
		return unix.EOPNOTSUPP
	}
	msgs, err := a.ask(unix.RTM_GETLINK, 0, ifInfo(index), unix.IFLA_TARGET_NETNSID, f.nsid)
	if err != nil {
		return fmt.Errorf("asking for its device: %w", gone(err))
	}
	for _, m := range msgs {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return fmt.Errorf("reading its device: %w", err)
		}
		f.IfName = l.Attrs().Name
		f.MTU = encap.OverlayMTU(min(l.Attrs().MTU, 1<<16-1))
		if len(l.Attrs().HardwareAddr) == encap.MACLen {
			f.MAC = encap.MACFrom(l.Attrs().HardwareAddr)
		}
	}
	addr := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	addr.Index = uint32(index)
	_, err = untorn(func() (struct{}, error) {
		f.Addresses, f.MoreAddresses = []netip.Prefix{}, 0
		return struct{}{}, a.each(unix.RTM_GETADDR, unix.NLM_F_DUMP, addr, unix.IFA_TARGET_NETNSID, f.nsid, func(m []byte) {
			switch p, ok := readAddress(m, index); {
			case !ok || p.Addr().IsLinkLocalUnicast():
			case len(f.Addresses) == MaxListed:
				f.MoreAddresses++
			default:
				f.Addresses = append(f.Addresses, p)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("asking for its addresses: %w", gone(err))
	}
	return nil
}

// gone says that a namespace's number, taken from a link a moment ago, means
// nothing any more as a link that went is reported.
func gone(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w (%w)", unix.ENODEV, err)
	}
	return err
}

func ifInfo(index int) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	return m
}

// ask sends a request about the namespace of a number and returns the answers.
func (a *Attacher) ask(kind uint16, flags uint16, header nl.NetlinkRequestData, attr, nsid int) ([][]byte, error) {
	return untorn(func() (msgs [][]byte, err error) {
		err = a.each(kind, flags, header, attr, nsid, func(m []byte) { msgs = append(msgs, m) })
		return msgs, err
	})
}

// each sends a request about the namespace of a number and calls f with each answer.
func (a *Attacher) each(kind uint16, flags uint16, header nl.NetlinkRequestData, attr, nsid int, f func([]byte)) error {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: kind, Flags: unix.NLM_F_REQUEST | flags},
		Sockets:  a.foreign,
	}
	req.AddData(header)
	req.AddData(nl.NewRtAttr(attr, binary.NativeEndian.AppendUint32(nil, uint32(nsid))))
	return req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(m []byte) bool {
		f(m)
		return true
	})
}

// readAddress reads an address of the device of the given index from a message.
func readAddress(m []byte, index int) (netip.Prefix, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return netip.Prefix{}, false
	}
	head := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil || int(head.Index) != index {
		return netip.Prefix{}, false
	}
	var a netip.Addr
	for _, at := range attrs {
		// On a link with peers IFA_ADDRESS is the other side's (if_addr.h).
		if at.Attr.Type == unix.IFA_LOCAL || at.Attr.Type == unix.IFA_ADDRESS && !a.IsValid() {
			a, _ = netip.AddrFromSlice(at.Value)
		}
	}
	return netip.PrefixFrom(a, int(head.Prefixlen)), a.IsValid()
}

// untorn repeats a dump that changes tore (NLM_F_DUMP_INTR), a few times.
func untorn[T any](dump func() (T, error)) (T, error) {
	for range 4 {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return dump()
}
