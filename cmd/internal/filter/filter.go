// Package filter reads filter expressions in tcpdump's words (pcap-filter(7)) and
// says whether a frame on the path matches. What is looked at is the inner frame,
// at every point; vni and peer look at what the path knows of it.
//
//	expression = term { ("and" | "&&" | "or" | "||") term }
//	term       = ("not" | "!") term | "(" expression ")" | primitive
//
// As in tcpdump, "and" and "or" bind alike, from left to right, "not" binds more,
// and an address or number alone takes over the words before the last one:
// "port 80 or 443". The primitives:
//
//	[ip|ip6|arp] [src|dst|src or dst|src and dst] [host] ADDRESS
//	[ip|ip6|arp] [src|dst|…] net PREFIX
//	[tcp|udp] [src|dst|…] port NUMBER, … portrange FIRST-LAST
//	ether [src|dst|…] [host] MAC, ether broadcast, ether multicast
//	ip, ip6, arp, tcp, udp, icmp, icmp6
//	vlan [ID]
//	vni NUMBER
//	peer ADDRESS, peer PREFIX
//	less LENGTH, greater LENGTH
//
// Other than in tcpdump, "vlan" does not change where the words behind it look:
// 802.1Q tags are looked through always, and so are IPv6 extension headers. Names
// of hosts and ports, and bytes at offsets, are not known.
package filter

import (
	"fmt"

	"overtap/dataplane"
)

// Filter is an expression that was read. Its zero value matches everything.
type Filter struct {
	match predicate
}

// predicate decides about a frame.
type predicate func(p *packet) bool

// Parse reads an expression; an empty one matches everything. Its error names the
// column, from 1, in bytes.
func Parse(expression string) (*Filter, error) {
	p := &parser{text: expression}
	if err := p.scan(); err != nil {
		return nil, err
	}
	if len(p.tokens) == 1 { // the end
		return &Filter{}, nil
	}
	match, err := p.expression()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.text != "" {
		return nil, wrong(t, "and, or, or the end")
	}
	return &Filter{match}, nil
}

// Match reports whether the expression matches what was seen. Of a frame that was
// cut short it sees what was kept.
func (f *Filter) Match(r *dataplane.Record) bool {
	if f.match == nil {
		return true
	}
	p := packet{record: r}
	p.decode(r.Frame, r.Kind == dataplane.KindVXLAN)
	return f.match(&p)
}

// Error is a mistake in an expression.
type Error struct {
	Column int    // of the word that is wrong, from 1; one behind the last for the end
	Word   string // "" at the end
	Want   string
}

// Error returns the mistake, its place and what is accepted.
func (e *Error) Error() string {
	if e.Word == "" {
		return fmt.Sprintf("filter: column %d: it ends here: want %s", e.Column, e.Want)
	}
	return fmt.Sprintf("filter: column %d: %q: want %s", e.Column, e.Word, e.Want)
}

func wrong(t token, want string) error { return &Error{t.column, t.text, want} }
