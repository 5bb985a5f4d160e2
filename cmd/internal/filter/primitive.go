package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"overtap/encap"
)

// qualifiers are the words before an address or number.
type qualifiers struct {
	proto string // "", ether, ip, ip6, arp, tcp or udp
	dir   string // "" is src or dst
	kind  string // "" is host
}

// want is what all primitives begin with.
const want = "a primitive: host, net, port, portrange, src, dst, ether, ip, ip6, arp, tcp, udp, icmp, icmp6, vlan, vni, peer, less or greater"

// reserved are the words that are no address.
var reserved = []string{"(", ")", "!", "&&", "||", "", "and", "or", "not", "host", "net", "port", "portrange", "src", "dst", "ether",
	"ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "vlan", "vni", "peer", "less", "greater", "broadcast", "multicast"}

// primitive reads one, with its qualifiers.
func (p *parser) primitive() (predicate, error) {
	t := p.peek()
	switch t.text {
	case "icmp", "icmp6":
		p.next()
		return protocolOnly(t.text), nil
	case "vlan":
		p.next()
		return p.vlan()
	case "vni":
		p.next()
		n, err := p.number("a VNI, 0 to 16777215", 1<<24-1)
		return func(p *packet) bool { return p.hasVNI(encap.VNI(n)) }, err
	case "peer":
		p.next()
		prefix, err := p.prefix("the address or prefix of a peer")
		return func(p *packet) bool { return prefix.Contains(p.record.Peer) }, err
	case "less", "greater":
		p.next()
		n, err := p.number("a length in bytes", 1<<20)
		if t.text == "less" {
			return func(p *packet) bool { return p.record.Length <= n }, err
		}
		return func(p *packet) bool { return p.record.Length >= n }, err
	}
	q, found, err := p.qualify()
	if err != nil {
		return nil, err
	}
	if !found {
		if slices.Contains(reserved, t.text) {
			return nil, wrong(t, want)
		}
		if p.last != nil {
			q = *p.last
		} else if _, err := netip.ParseAddr(t.text); err != nil {
			return nil, wrong(t, want)
		}
	}
	return p.qualified(q)
}

// qualify reads the words before an address, and whether there were any.
func (p *parser) qualify() (q qualifiers, found bool, err error) {
	if t := p.peek(); p.accept("ether", "ip", "ip6", "arp", "tcp", "udp") {
		q.proto, found = t.text, true
	}
	if t := p.peek(); p.accept("src", "dst") {
		q.dir, found = t.text, true
		// "src or dst", but not "src A or dst B".
		if n := p.tokens[p.at:]; len(n) > 2 && (n[0].text == "or" || n[0].text == "and") && (n[1].text == "src" || n[1].text == "dst") {
			if n[1].text != q.dir && n[0].text == "or" {
				q.dir = ""
			} else if n[1].text != q.dir {
				q.dir = "both"
			}
			p.at += 2
		}
	}
	t := p.peek()
	if !p.accept("host", "net", "port", "portrange") {
		return q, found, nil
	}
	q.kind = t.text
	ok := true
	switch q.proto {
	case "ether":
		ok = q.kind == "host"
	case "ip", "ip6", "arp":
		ok = q.kind == "host" || q.kind == "net"
	case "tcp", "udp":
		ok = strings.HasPrefix(q.kind, "port")
	}
	if !ok {
		return q, true, wrong(t, "what "+q.proto+" has: "+map[string]string{
			"ether": "host", "ip": "host or net", "ip6": "host or net", "arp": "host or net",
			"tcp": "port or portrange", "udp": "port or portrange"}[q.proto])
	}
	return q, true, nil
}

// qualified reads what stands behind the qualifiers.
func (p *parser) qualified(q qualifiers) (predicate, error) {
	t := p.peek()
	bare := q.kind == "" && q.dir == ""
	switch {
	case q.proto == "ether":
		if bare && p.accept("broadcast") {
			return func(p *packet) bool { return p.ethernet && p.dstMAC.IsBroadcast() }, nil
		}
		if bare && p.accept("multicast") {
			return func(p *packet) bool { return p.ethernet && p.dstMAC.IsMulticast() }, nil
		}
		return p.macs(q)
	case bare && q.proto != "" && slices.Contains(reserved, t.text):
		return protocolOnly(q.proto), nil
	case q.proto == "tcp" || q.proto == "udp":
		if q.kind == "" {
			return nil, wrong(t, "port or portrange behind "+q.proto)
		}
		return p.ports(q)
	case strings.HasPrefix(q.kind, "port"):
		return p.ports(q)
	}
	return p.addresses(q)
}

// remember keeps the qualifiers for an address or number alone.
func (p *parser) remember(q qualifiers) { p.last = &q }

// choose makes a predicate of one on the source and one on the destination.
func choose(dir string, src, dst predicate) predicate {
	switch dir {
	case "src":
		return src
	case "dst":
		return dst
	case "both":
		return both(src, dst)
	}
	return either(src, dst)
}

func (p *parser) macs(q qualifiers) (predicate, error) {
	t := p.next()
	mac, err := encap.ParseMAC(t.text)
	if err != nil {
		accepted := "a MAC such as 02:42:0a:00:01:04"
		if q.kind == "" && q.dir == "" {
			accepted = "src, dst, host, broadcast, multicast or " + accepted
		}
		return nil, wrong(t, accepted)
	}
	p.remember(q)
	return choose(q.dir,
		func(p *packet) bool { return p.ethernet && p.srcMAC == mac },
		func(p *packet) bool { return p.ethernet && p.dstMAC == mac }), nil
}

func (p *parser) addresses(q qualifiers) (predicate, error) {
	accepted := "an IPv4 or IPv6 address"
	if q.kind == "" && q.dir != "" && q.proto == "" {
		accepted = "host, net, port, portrange or " + accepted
	}
	parse := p.address
	if q.kind == "net" {
		accepted, parse = "a prefix such as 10.0.0.0/8", p.prefix
	}
	t := p.peek()
	prefix, err := parse(accepted)
	if err != nil {
		return nil, err
	}
	if v6 := prefix.Addr().Is6(); q.proto == "ip6" && !v6 || (q.proto == "ip" || q.proto == "arp") && v6 {
		return nil, wrong(t, "an address that "+q.proto+" has")
	}
	p.remember(q)
	of := func(p *packet) bool { return q.proto == "" || p.is(q.proto) }
	return both(of, choose(q.dir,
		func(p *packet) bool { return prefix.Contains(p.src) },
		func(p *packet) bool { return prefix.Contains(p.dst) })), nil
}

func (p *parser) ports(q qualifiers) (predicate, error) {
	t := p.next()
	first, last, found := strings.Cut(t.text, "-")
	accepted := "a port, 0 to 65535"
	if q.kind == "portrange" {
		accepted = "two ports such as 5000-5010"
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high := low
	var err2 error
	if found {
		high, err2 = strconv.ParseUint(last, 10, 16)
	}
	if err1 != nil || err2 != nil || found != (q.kind == "portrange") || low > high {
		return nil, wrong(t, accepted)
	}
	p.remember(q)
	in := func(port uint16) bool { return uint64(port) >= low && uint64(port) <= high }
	of := func(p *packet) bool { return p.hasPorts && (q.proto == "" || p.is(q.proto)) }
	return both(of, choose(q.dir,
		func(p *packet) bool { return in(p.srcPort) },
		func(p *packet) bool { return in(p.dstPort) })), nil
}

func (p *parser) vlan() (predicate, error) {
	if slices.Contains(reserved, p.peek().text) {
		return func(p *packet) bool { return len(p.vlans) > 0 }, nil
	}
	id, err := p.number("a VLAN ID, 0 to 4095, or nothing", 4095)
	return func(p *packet) bool { return slices.Contains(p.vlans, uint16(id)) }, err
}

func protocolOnly(proto string) predicate { return func(p *packet) bool { return p.is(proto) } }

// number reads one from 0 to most.
func (p *parser) number(accepted string, most uint64) (int, error) {
	t := p.next()
	n, err := strconv.ParseUint(t.text, 10, 32)
	if err != nil || n > most {
		return 0, wrong(t, accepted)
	}
	return int(n), nil
}

// address reads one as a prefix of that address alone.
func (p *parser) address(accepted string) (netip.Prefix, error) {
	t := p.next()
	a, err := netip.ParseAddr(t.text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Prefix{}, wrong(t, accepted)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// prefix reads one, or an address.
func (p *parser) prefix(accepted string) (netip.Prefix, error) {
	t := p.peek()
	if !strings.Contains(t.text, "/") {
		return p.address(accepted)
	}
	p.next()
	prefix, err := netip.ParsePrefix(t.text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, wrong(t, accepted)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, wrong(t, fmt.Sprintf("no bits behind the prefix: %s", masked))
	}
	return prefix, nil
}
