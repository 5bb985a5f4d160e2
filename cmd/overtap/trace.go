package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/frame"
	"overtap/dataplane"
	"overtap/encap"
)

// traced holds the flags that describe a frame.
type traced struct {
	frame.Spec
	query   dataplane.Query // without the frame
	vni     uint32
	segment uint16
	set     func(flag string) bool // on the command line
}

// setPair reads the source and destination of the IP packet.
func (t *traced) setPair(s string) error {
	src, dst, _ := strings.Cut(s, ",")
	var err, err2 error
	t.IPSrc, err = netip.ParseAddr(src)
	t.IPDst, err2 = netip.ParseAddr(dst)
	if err != nil || err2 != nil {
		return fmt.Errorf("addresses %q: want two with a comma between, such as 198.51.100.1,198.51.100.2", s)
	}
	return nil
}

const traceLong = `Explain step by step what the daemon would do with a frame and why: which check drops
it, where its destination is known from, which peers get a copy, from which source
port, how long the outer packets are and whether the path takes them. Nothing is
sent, learned or counted.

With NETWORK and ADDRESS it is a packet of this host, or of a container here, to that
inner address: its MAC is looked up as the host would, and where this host does not
know it, the ARP request or neighbour solicitation for it is traced.

Otherwise the flags describe the frame. Without --from it is one that a container
sends, with --from one that the peer sent to us. A network of [[ipip]] carries IP
packets: give it --ip, and no MACs. Without --ip the frame holds no IP packet, and its
source port is not that of a container's flow. --arp is the request for an address.

  overtap trace --network blue --src 02:42:0a:00:01:02 --dst 02:42:0a:00:01:04 \
      --ip 198.51.100.1,198.51.100.2 --proto tcp --sport 40000 --dport 443
  overtap trace --network blue --src 02:42:0a:00:01:02 --arp 198.51.100.2 --ip-src 198.51.100.1
  overtap trace --network blue --from 192.0.2.2 --src 02:42:0a:00:01:04 --dst 02:42:0a:00:01:02
  overtap trace --network tun0 --ip 172.245.0.2,172.246.0.2 --size 1480

What depends on the moment is left out: full buffers, and how many ICMP errors were
sent in this second. A frame that is dropped is an answer too: the exit code is 0.

With --live real frames that match a filter, as of ` + "`overtap capture`" + `, are followed
for a bounded time. For each it is printed where it came from, and to which peer it was
sent or why it was dropped.`

func newTraceCommand() *cobra.Command {
	var d daemonFlags
	var t traced
	var json jsonFlag
	var follow bool
	var live liveFlags
	c := &cobra.Command{
		Use:   "trace [flags] [NETWORK ADDRESS] | trace --live [flags] [filter...]",
		Short: "Explain what would happen to a frame, step by step, or follow real ones",
		Long:  traceLong,
		Example: `  overtap trace blue 198.51.100.2
  overtap trace --live --network blue host 198.51.100.2 and icmp`,
		Args: func(_ *cobra.Command, args []string) error {
			if follow {
				return nil // they are a filter
			}
			return networkAndAddress(args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if follow {
				live.network, live.json = t.query.Network, bool(json)
				return live.run(c, d.client(), args)
			}
			if err := notLive(c.Flags()); err != nil {
				return usageError{err}
			}
			t.set = c.Flags().Changed
			err := t.refuseIgnored(len(args) > 0)
			var first *dataplane.Step
			switch {
			case err != nil:
			case len(args) == 0:
				err = t.describe()
			default:
				a, perr := parseAddress(args[1])
				if perr != nil {
					return usageError{perr}
				}
				r, rerr := d.client().Resolve(c.Context(), args[0], a)
				if rerr != nil {
					return rerr
				}
				first, err = t.address(&r, a)
			}
			if err == nil {
				err = t.Put(&t.query)
			}
			if err != nil {
				return usageError{err}
			}
			x, err := d.client().Explain(c.Context(), t.query)
			if err != nil {
				return err
			}
			if first != nil {
				x.Steps = append([]dataplane.Step{*first}, x.Steps...)
			}
			return json.print(c, x, func(w io.Writer) error { return printExplanation(w, x) })
		},
	}
	d.add(c)
	t.add(c)
	json.add(c)
	c.Flags().Lookup("json").Usage = "print JSON; with --live an object a line"
	c.Flags().BoolVar(&follow, "live", false, "follow real frames, those that match the filter")
	live.add(c)
	c.ValidArgsFunction = completeArgs(completeNetworks)
	return c
}

func (t *traced) add(c *cobra.Command) {
	f := c.Flags()
	addNetwork(c, &t.query.Network, networkName)
	addMAC(c, &t.Src, "src", "the frame's source `MAC`")
	addMAC(c, &t.Dst, "dst", "the frame's destination `MAC`")
	f.Func("ip", "the IP packet's source and destination: `SRC,DST`", t.setPair)
	addAddress(c, &t.IPSrc, "ip-src", "the IP packet's source `ADDRESS`")
	addAddress(c, &t.IPDst, "ip-dst", "the IP packet's destination `ADDRESS`")
	f.StringVar(&t.Proto, "proto", "", "`PROTOCOL` of the IP packet: tcp, udp or icmp (default icmp)")
	complete(c, "proto", completeWords([]string{"tcp", "udp", "icmp"}))
	f.Uint16Var(&t.SPort, "sport", 0, "source `PORT` of tcp or udp")
	f.Uint16Var(&t.DPort, "dport", 0, "destination `PORT` of tcp or udp")
	f.IntVar(&t.Size, "size", 0, "length of the IP packet in `BYTES`, as an MTU counts (default: as short as possible)")
	f.Uint16Var(&t.segment, "segment", 0, "a GSO packet of tcp or udp, with segments of so many `BYTES` of payload")
	f.Uint16Var(&t.VLAN, "vlan", 0, "802.1Q `TAG` of the frame")
	f.Uint8Var(&t.TOS, "tos", 0, "`TOS` or traffic class of the IP packet")
	f.Uint8Var(&t.TTL, "ttl", 64, "`TTL` or hop limit of the IP packet")
	f.BoolVar(&t.DF, "df", true, "the IPv4 packet may not be fragmented")
	addAddress(c, &t.ARP, "arp", "a request for this `ADDRESS`, by ARP or neighbour discovery, from --src and --ip-src")
	addPeer(c, &t.query.From, "from", "the frame comes from the peer `ADDRESS`")
	f.Uint32Var(&t.vni, "vni", 0, "with --from: the datagram's `VNI` (default: the network's)")
	f.Uint16Var(&t.query.Port, "port", 0, "with --from: the UDP `PORT` on which it arrives (default: the network's)")
	f.Uint8Var(&t.query.TOS, "outer-tos", 0, "with --from: `TOS` of the outer packet")
}

// networkAndAddress wants two arguments or none.
func networkAndAddress(args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case len(args) != 2:
		return fmt.Errorf("want NETWORK ADDRESS, or flags alone; got %s (a filter wants --live)", plural(len(args), "argument", "arguments"))
	case args[0] == "":
		return errors.New("the network's name is empty")
	}
	return nil
}

// refuseIgnored is an error when a flag would make no difference.
func (t *traced) refuseIgnored(toAddress bool) error {
	if toAddress {
		for _, flag := range []string{"network", "dst", "ip", "ip-dst", "arp", "from", "vni", "port", "outer-tos"} {
			if t.set(flag) {
				return fmt.Errorf("--%s with NETWORK ADDRESS, which imply it: want one or the others", flag)
			}
		}
		return nil
	}
	for _, flag := range []string{"tos", "ttl", "df"} {
		switch {
		case !t.set(flag):
		case t.set("arp"):
			return fmt.Errorf("--%s with --arp: a request for an address has none", flag)
		case !t.set("ip") && !t.set("ip-src") && !t.set("ip-dst"):
			return fmt.Errorf("--%s is of an IP packet: name its addresses with --ip SRC,DST", flag)
		case flag == "df" && t.IPSrc.Is6():
			return errDF6
		}
	}
	return nil
}

var errDF6 = errors.New("--df of an IPv6 packet: IPv6 packets are not fragmented on their way")

// address makes the frame a packet to an inner address, and returns the step that says
// how that is addressed.
func (t *traced) address(r *control.Resolved, a netip.Addr) (*dataplane.Step, error) {
	t.query.Network, t.IPDst = r.Network, a
	if !t.set("ip-src") {
		t.IPSrc = r.Source
	}
	if t.set("df") && a.Is6() {
		return nil, errDF6
	}
	if r.Kind == dataplane.KindIPIP {
		switch {
		case t.set("src") || t.set("vlan"):
			return nil, fmt.Errorf("network %s is of IP-in-IP: its packets have neither MACs nor VLANs", r.Network)
		case !t.IPSrc.IsValid():
			return nil, fmt.Errorf("this host has no address in network %s: name the packet's source with --ip-src", r.Network)
		}
		return nil, t.checkSegment()
	}
	t.Ethernet, t.Dst = true, r.MAC
	if !t.set("src") {
		t.Src = r.SourceMAC
	}
	what := a.String()
	if r.Via.IsValid() {
		what = fmt.Sprintf("%s, by way of %s,", a, r.Via)
	}
	step := &dataplane.Step{Name: "address", Verdict: "note", Detail: fmt.Sprintf("%s is at %s: %s", what, r.MAC, r.Known)}
	switch {
	case r.MAC.IsZero():
		for _, flag := range []string{"proto", "sport", "dport", "size", "segment", "tos", "ttl", "df"} {
			if t.set(flag) {
				return nil, fmt.Errorf("--%s: this host does not know the MAC of %s, and the request for it has none: give the MAC with --dst, and the packet with --ip", flag, what)
			}
		}
		t.ARP, t.IPDst, t.Proto = a, netip.Addr{}, ""
		if r.Via.IsValid() {
			t.ARP = r.Via
		}
		if !t.IPSrc.IsValid() && a.Is4() {
			t.IPSrc = netip.IPv4Unspecified() // a probe (RFC 5227 section 2.1.1)
		} else if !t.IPSrc.IsValid() {
			t.IPSrc = netip.IPv6Unspecified()
		}
		step.Detail = fmt.Sprintf("this host does not know the MAC of %s: this is the request for it", strings.TrimSuffix(what, ","))
	case !t.IPSrc.IsValid():
		return nil, fmt.Errorf("neither this host nor a container attached here has an address in network %s: name the packet's source with --ip-src", r.Network)
	}
	return step, t.checkSegment()
}

// checkSegment takes in --segment, and is an error when it makes no GSO packet.
func (t *traced) checkSegment() error {
	t.query.SegSize = int(t.segment)
	switch {
	case t.set("segment") && t.Proto != "tcp" && t.Proto != "udp":
		return errors.New("--segment: want --proto tcp or udp")
	case t.set("segment") && t.segment == 0:
		return errors.New("--segment 0: want 1 or more bytes")
	case t.set("vlan") && t.VLAN == 0:
		return errors.New("--vlan 0: want 1 to 4094")
	}
	return nil
}

// describe completes the frame that the flags describe.
func (t *traced) describe() error {
	if t.set("vni") {
		vni, err := encap.NewVNI(int64(t.vni))
		if err != nil {
			return fmt.Errorf("--vni: %w", err)
		}
		t.query.VNI = &vni
	}
	for _, flag := range []string{"vni", "port", "outer-tos"} {
		if t.set(flag) && !t.set("from") {
			return fmt.Errorf("--%s is of a frame from a peer: name that with --from ADDRESS", flag)
		}
	}
	t.Ethernet = t.set("src") || t.set("dst")
	switch {
	case t.set("ip") && (t.set("ip-src") || t.set("ip-dst")):
		return errors.New("--ip with --ip-src or --ip-dst: want one or the others")
	case !t.Ethernet && !t.IPSrc.IsValid() && !t.IPDst.IsValid():
		return errors.New("name the frame's ends with --src MAC and --dst MAC, or those of a packet for an [[ipip]] network with --ip SRC,DST")
	case t.Ethernet && !t.set("src"), t.Ethernet && !t.set("dst") && !t.set("arp"):
		return errors.New("one MAC: name both with --src MAC and --dst MAC")
	case !t.Ethernet && t.set("vlan"):
		return errors.New("--vlan of a packet without MACs: name those with --src MAC and --dst MAC")
	case t.set("segment") && t.set("from"):
		return errors.New("--segment with --from: only a frame from a container can be a GSO packet")
	}
	return t.checkSegment()
}

// printExplanation prints a line a step, and the verdict last.
func printExplanation(w io.Writer, x dataplane.Explanation) error {
	where := "no network"
	if x.Network != "" {
		where = fmt.Sprintf("network %s (%s)", x.Network, x.Kind)
	}
	fmt.Fprintf(w, "%s, %s\n", where, x.Direction)
	for _, s := range x.Steps {
		fmt.Fprintf(w, "  %-6s  %-9s  %s\n", s.Verdict, s.Name, s.Detail)
	}
	_, err := fmt.Fprintf(w, "verdict   %s\n", verdict(x))
	return err
}

// verdict is the outcome in a line.
func verdict(x dataplane.Explanation) string {
	switch {
	case x.Verdict == dataplane.OutcomeSent && len(x.Copies) > 1:
		sent := 0
		for _, c := range x.Copies {
			if c.Reason == 0 {
				sent++
			}
		}
		return fmt.Sprintf("sent to %d of %s", sent, plural(len(x.Copies), "receiver", "receivers"))
	case x.Verdict == dataplane.OutcomeSent:
		return fmt.Sprintf("sent to %s", x.Copies[0].Peer)
	case x.Verdict == dataplane.OutcomeBridged:
		return "delivered by the bridge of this host"
	case x.Reason != 0:
		return fmt.Sprintf("dropped: %s (%s); see troubleshooting.md#%s", x.Reason, x.Reason.Text(), x.Reason)
	}
	return string(x.Verdict)
}
