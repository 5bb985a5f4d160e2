package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/frame"
	"overtap/dataplane"
	"overtap/encap"
)

// traced holds the flags that describe a frame.
type traced struct {
	network      string
	src, dst     macFlag
	ip           addressPair
	ipSrc, ipDst addressFlag
	proto        string
	sport, dport uint16
	size         int
	segment      uint16
	vlan         uint16
	tos, ttl     uint8
	df           bool
	arp          addressFlag

	from     peerFlag
	vni      uint32
	port     uint16
	outerTOS uint8
}

// addressPair is two optional IP addresses with a comma between.
type addressPair struct{ src, dst netip.Addr }

// Set implements pflag.Value.
func (p *addressPair) Set(s string) error {
	src, dst, _ := strings.Cut(s, ",")
	var err, err2 error
	p.src, err = netip.ParseAddr(src)
	p.dst, err2 = netip.ParseAddr(dst)
	if err != nil || err2 != nil {
		return fmt.Errorf("addresses %q: want two with a comma between, such as 198.51.100.1,198.51.100.2", s)
	}
	return nil
}

// Type implements pflag.Value.
func (p *addressPair) Type() string { return "SRC,DST" }

// String returns "" when the flag is not set.
func (p *addressPair) String() string {
	if !p.src.IsValid() {
		return ""
	}
	return p.src.String() + "," + p.dst.String()
}

const traceLong = `Say step by step what the daemon would do with a frame and why: which check drops
it, where its destination is known from, which peers get a copy, from which source
port, how long the outer packets are and whether the path takes them. Nothing is
sent, learned or counted.

Without --from the frame is as a container sends it; with --from as that peer sent
it to us. A network of [[ipip]] carries IP packets: give it --ip, and no MACs.
Without --ip the frame holds no IP packet, and its source port is not that of a
container's flow.

What depends on the moment is left out: full buffers, and how many ICMP errors were
sent in this second. That a frame is dropped is an answer: the exit code is 0.

With --live real frames that match a filter, as of overtap capture, are followed for
a bounded time, and for each it is printed where it came from and what became of it:
to whom it was sent, or why it was dropped.`

func newTraceCommand() *cobra.Command {
	var d daemonFlags
	var t traced
	var json bool
	c := &cobra.Command{
		Use:   "trace [flags] | trace --live [flags] [filter...]",
		Short: "Explain what would become of a frame, step by step, or follow real ones",
		Long:  traceLong,
		Example: `  overtap trace --network blue --src 02:42:0a:00:01:02 --dst 02:42:0a:00:01:04 \
      --ip 198.51.100.1,198.51.100.2 --proto tcp --sport 40000 --dport 443
  overtap trace --network blue --src 02:42:0a:00:01:02 --arp 198.51.100.2 --ip-src 198.51.100.1
  overtap trace --network blue --from 192.0.2.2 --src 02:42:0a:00:01:04 --dst 02:42:0a:00:01:02
  overtap trace --network tun0 --ip 172.245.0.2,172.246.0.2 --size 1480
  overtap trace --live --network blue host 198.51.100.2 and icmp`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := t.query(c)
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			x, err := d.client().Explain(c.Context(), p)
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), x)
			}
			return printExplanation(c.OutOrStdout(), x)
		},
	}
	d.add(c)
	t.add(c)
	addJSON(c, &json)
	addLive(c)
	return c
}

func (t *traced) add(c *cobra.Command) {
	f := c.Flags()
	addNetwork(c, &t.network)
	f.Var(&t.src, "src", "the frame's source")
	f.Var(&t.dst, "dst", "the frame's destination")
	f.Var(&t.ip, "ip", "the IP packet's source and destination")
	f.Var(&t.ipSrc, "ip-src", "the IP packet's source")
	f.Var(&t.ipDst, "ip-dst", "the IP packet's destination")
	f.StringVar(&t.proto, "proto", "", "`PROTOCOL` of the IP packet: tcp, udp or icmp (default icmp)")
	f.Uint16Var(&t.sport, "sport", 0, "source `PORT` of tcp or udp")
	f.Uint16Var(&t.dport, "dport", 0, "destination `PORT` of tcp or udp")
	f.IntVar(&t.size, "size", 0, "length of the IP packet in `BYTES`, as an MTU counts (default: as short as may be)")
	f.Uint16Var(&t.segment, "segment", 0, "a superframe of tcp or udp, cut each so many `BYTES` of payload")
	f.Uint16Var(&t.vlan, "vlan", 0, "802.1Q `TAG` of the frame")
	f.Uint8Var(&t.tos, "tos", 0, "`TOS` or traffic class of the IP packet")
	f.Uint8Var(&t.ttl, "ttl", 64, "`TTL` or hop limit of the IP packet")
	f.BoolVar(&t.df, "df", true, "the IPv4 packet may not be fragmented")
	f.Var(&t.arp, "arp", "ask who has this address, by ARP or neighbour discovery, as --src and --ip-src")
	f.Var(&t.from, "from", "the frame comes from this peer")
	f.Uint32Var(&t.vni, "vni", 0, "with --from: the datagram's `VNI` (default: the network's)")
	f.Uint16Var(&t.port, "port", 0, "with --from: the UDP `PORT` on which it comes (default: the network's)")
	f.Uint8Var(&t.outerTOS, "outer-tos", 0, "with --from: `TOS` of the outer packet")
}

// query is what to ask the daemon. Its errors are mistakes of the command line.
func (t *traced) query(c *cobra.Command) (dataplane.Query, error) {
	p := dataplane.Query{Network: t.network, SegSize: int(t.segment), From: t.from.Addr, Port: t.port, TOS: t.outerTOS}
	set := c.Flags().Changed
	if set("vni") {
		vni, err := encap.NewVNI(int64(t.vni))
		if err != nil {
			return p, fmt.Errorf("--vni: %w", err)
		}
		p.VNI = &vni
	}
	for _, flag := range []string{"vni", "port", "outer-tos"} {
		if set(flag) && !set("from") {
			return p, fmt.Errorf("--%s is of a frame from a peer: name that with --from ADDRESS", flag)
		}
	}
	s := frame.Spec{
		Ethernet: set("src") || set("dst"), Src: t.src.MAC, Dst: t.dst.MAC, VLAN: t.vlan,
		IPSrc: t.ip.src, IPDst: t.ip.dst, Proto: t.proto, SPort: t.sport, DPort: t.dport,
		TOS: t.tos, TTL: t.ttl, DF: t.df, ARP: t.arp.Addr, Size: t.size,
	}
	if set("ip-src") {
		s.IPSrc = t.ipSrc.Addr
	}
	if set("ip-dst") {
		s.IPDst = t.ipDst.Addr
	}
	switch {
	case set("ip") && (set("ip-src") || set("ip-dst")):
		return p, errors.New("--ip beside --ip-src or --ip-dst: want the one or the others")
	case !s.Ethernet && !s.IPSrc.IsValid() && !s.IPDst.IsValid():
		return p, errors.New("name the frame's ends with --src MAC and --dst MAC, or those of a packet for an [[ipip]] network with --ip SRC,DST")
	case s.Ethernet && !set("src"), s.Ethernet && !set("dst") && !set("arp"):
		return p, errors.New("one MAC: name both with --src MAC and --dst MAC")
	case !s.Ethernet && set("vlan"):
		return p, errors.New("--vlan of a packet without MACs: name those with --src MAC and --dst MAC")
	case set("segment") && set("from"):
		return p, errors.New("--segment beside --from: only a frame from a container can be a superframe")
	case set("segment") && t.proto != "tcp" && t.proto != "udp":
		return p, errors.New("--segment: want --proto tcp or udp")
	case set("segment") && t.segment == 0:
		return p, errors.New("--segment 0: want 1 or more bytes")
	case set("vlan") && t.vlan == 0:
		return p, errors.New("--vlan 0: want 1 to 4094")
	}
	return p, s.Put(&p)
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

// verdict says in a line what becomes of the frame.
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
	case x.Reason != 0:
		return fmt.Sprintf("dropped: %s (%s); see troubleshooting.md#%s", x.Reason, x.Reason.Text(), x.Reason)
	}
	return string(x.Verdict)
}
