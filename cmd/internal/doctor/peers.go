package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"overtap/cmd/internal/config"
)

const (
	// echoWait is how long a peer has to answer an echo request, and echoTries
	// how many it gets.
	echoWait  = time.Second
	echoTries = 2
	// maxAsked bounds how many peers are asked.
	maxAsked = 256
)

// peers looks for a route to each peer, and whether it answers.
func peers(ctx context.Context, add report, c *config.Config) {
	all := peersOf(c)
	if len(all) > maxAsked {
		add("peers", OK, "", "the first %d of %d peers are asked", maxAsked, len(all))
		all = all[:maxAsked]
	}
	reports := make([]func(), len(all))
	var wait sync.WaitGroup
	for i, p := range all {
		wait.Go(func() {
			reports[i] = look(ctx, add, c.Underlay.Address, p)
		})
	}
	wait.Wait()
	for _, report := range reports {
		report()
	}
}

// look asks one peer, and returns what reports it.
func look(ctx context.Context, add report, from netip.Addr, p *peer) func() {
	check := "peer " + p.address.String()
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.address, 9)))
	if err != nil {
		return func() {
			add(check, Fail, "ip route get "+p.address.String(), "there is no route to it from %s: %v", from, err)
		}
	}
	conn.Close()
	for range echoTries {
		if err = echo(ctx, from, p.address); err == nil {
			return func() { add(check, OK, "", "it answers ping; %s", p.unanswered()) }
		}
	}
	return func() {
		add(check, Warn, "look at the peer, and at what filters between", "it does not answer an echo request, which some hosts never do: %v", err)
	}
}

// echo asks for an echo (RFC 792, RFC 4443).
func echo(ctx context.Context, from, peer netip.Addr) error {
	network, proto := "ip4:icmp", 1
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if peer.Is6() {
		network, proto, kind = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest
	}
	conn, err := icmp.ListenPacket(network, from.String())
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer conn.Close()
	id := os.Getpid() & 0xffff
	request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("overtap doctor")}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: peer.AsSlice()}); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	deadline := time.Now().Add(echoWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("waiting for an answer: %w", err)
	}
	b := make([]byte, 1500)
	for {
		n, who, err := conn.ReadFrom(b)
		if err != nil {
			return fmt.Errorf("waiting for an answer: %w", err)
		}
		m, err := icmp.ParseMessage(proto, b[:n])
		if err != nil {
			continue
		}
		at, ok := who.(*net.IPAddr)
		answer, isEcho := m.Body.(*icmp.Echo)
		if ok && isEcho && answer.ID == id && at.IP.Equal(peer.AsSlice()) &&
			(m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) {
			return nil
		}
	}
}

// peer is one that the configuration names.
type peer struct {
	address netip.Addr
	ports   []uint16 // UDP, that it is spoken to on
	ipip    bool
}

// peersOf are the peers that the configuration names, each once, in order.
func peersOf(c *config.Config) []*peer {
	known := make(map[netip.Addr]*peer)
	of := func(a netip.Addr) *peer {
		if known[a] == nil {
			known[a] = &peer{address: a}
		}
		return known[a]
	}
	udp := func(a netip.Addr, port uint16) {
		if p := of(a); !slices.Contains(p.ports, port) {
			p.ports = append(p.ports, port)
		}
	}
	for _, v := range c.VXLAN {
		for _, p := range v.AllPeers() {
			udp(p.Addr, v.Port)
		}
	}
	for _, t := range c.IPIP {
		for _, r := range t.Routes {
			of(r.Peer).ipip = true
		}
	}
	var all []*peer
	for _, p := range known {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *peer) int { return a.address.Compare(b.address) })
	return all
}

// unanswered is what an answered ping leaves open, and what would show it.
func (p *peer) unanswered() string {
	var of []string
	for _, port := range p.ports {
		of = append(of, fmt.Sprintf("UDP port %d", port))
	}
	shows := "`overtap trace --live` shows it"
	if len(of) > 0 {
		shows = "`probe` or " + shows
	}
	if p.ipip {
		of = append(of, "IP protocol 4")
	}
	return "that says nothing of " + strings.Join(of, ", ") + ": " + shows
}
