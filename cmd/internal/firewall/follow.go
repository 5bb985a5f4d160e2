package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Of a packet between two ports of a bridge some things are known, such as the
// devices that it passes by, and others are not, such as its addresses. So a rule
// matches it, does not, or may; and the outcome of a chain is a set of verdicts.
// A packet is called dropped only when that set has nothing but drop: a filter
// that is not understood is never blamed.

type tableKey struct {
	family nftables.TableFamily
	name   string
}

type chainKey struct {
	tableKey
	chain string
}

type chain struct {
	key      chainKey
	base     bool // at the FORWARD hook
	drops    bool // the policy of a base chain
	priority int32
	rules    []*nftables.Rule
}

// ruleset is what read found.
type ruleset struct {
	chains   map[chainKey]*chain
	bases    []*chain // in the order of the hook
	elements func(t tableKey, set string) ([]nftables.SetElement, error)
	sets     map[chainKey][]nftables.SetElement // by table and name of the set; absent = not known
}

// load reads the sets that the rules look up.
func (r *ruleset) load() {
	r.sets = make(map[chainKey][]nftables.SetElement)
	for _, c := range r.chains {
		for _, rule := range c.rules {
			for _, e := range rule.Exprs {
				l, ok := e.(*expr.Lookup)
				if !ok {
					continue
				}
				key := chainKey{c.key.tableKey, l.SetName}
				if _, done := r.sets[key]; done {
					continue
				}
				if list, err := r.elements(key.tableKey, l.SetName); err == nil {
					r.sets[key] = list
				}
			}
		}
	}
}

// outcome is a set of verdicts that a packet may get.
type outcome uint8

const (
	accepts outcome = 1 << iota
	drops
	goesOn   // past the end of a chain
	anything = accepts | drops | goesOn
)

// maxJumps bounds nesting as the kernel does (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

// block returns what drops the packet for sure, nil when nothing does.
func (r *ruleset) block(p packet) *Block {
	for _, base := range r.bases {
		if !p.sees(base.key.family) {
			continue
		}
		out := r.follow(base, p, maxJumps)
		policy := out == goesOn && base.drops
		if out != drops && !policy {
			continue
		}
		return &Block{
			Bridge: p.bridge, IPv6: p.ipv6, Policy: policy, Netfilter: base.key.family != nftables.TableFamilyBridge,
			Chain:  fmt.Sprintf("%s %s %s", familyName(base.key.family), base.key.name, base.key.chain),
			Remedy: r.remedy(base, p),
		}
	}
	return nil
}

// remedy is the command that lets frames pass between the ports of the bridge,
// and nothing else. Docker keeps DOCKER-USER for such rules.
func (r *ruleset) remedy(base *chain, p packet) string {
	k := base.key
	if k.family == nftables.TableFamilyBridge {
		return fmt.Sprintf("nft insert rule bridge %s %s meta ibrname %s accept", k.name, k.chain, p.bridge)
	}
	tool := "iptables"
	if p.ipv6 {
		tool = "ip6tables"
	}
	if (k.family == nftables.TableFamilyIPv4 || k.family == nftables.TableFamilyIPv6) && k.name == "filter" && k.chain == "FORWARD" {
		to := k.chain
		if _, ok := r.chains[chainKey{k.tableKey, "DOCKER-USER"}]; ok {
			to = "DOCKER-USER"
		}
		return fmt.Sprintf("%s -I %s -i %s -o %s -j ACCEPT", tool, to, p.bridge, p.bridge)
	}
	return fmt.Sprintf("nft insert rule %s %s %s iifname %s oifname %s accept", familyName(k.family), k.name, k.chain, p.bridge, p.bridge)
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return "bridge"
}

// follow takes the packet through a chain's rules.
func (r *ruleset) follow(c *chain, p packet, jumps int) (out outcome) {
	if jumps == 0 {
		return anything
	}
	for _, rule := range c.rules {
		m, then, ends := r.rule(c, rule, p, jumps)
		switch m {
		case no:
			continue
		case maybe:
			if !ends {
				then &^= goesOn
			}
			out |= then // and what follows counts too
			continue
		}
		if ends || then&goesOn == 0 {
			return out | then
		}
		out |= then &^ goesOn
	}
	return out | goesOn
}

type match int

const (
	no match = iota
	maybe
	yes
)

// rule says whether the rule matches the packet, what it makes of it, and
// whether goesOn means that the chain ends here ("return", or "goto" another).
func (r *ruleset) rule(c *chain, rule *nftables.Rule, p packet, jumps int) (m match, then outcome, ends bool) {
	m, then = yes, goesOn
	regs := make(registers)
	for _, e := range rule.Exprs {
		with := yes
		switch x := e.(type) {
		case *expr.Meta:
			if !x.SourceRegister {
				regs.load(x.Register, p.meta(x.Key, c.key.family))
			}
		case *expr.Payload:
			regs.load(x.DestRegister, p.payload(x, c.key.family))
		case *expr.Ct:
			var value []byte
			if x.Key == expr.CtKeySTATE {
				value = binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW)
			}
			regs.load(x.Register, value)
		case *expr.Bitwise:
			regs.load(x.DestRegister, bitwise(regs.get(x.SourceRegister), x))
		case *expr.Immediate:
			regs.load(x.Register, x.Data)
		case *expr.Cmp:
			with = compare(regs.get(x.Register), x.Op, x.Data)
		case *expr.Range:
			with = maybe
		case *expr.Lookup:
			var v *expr.Verdict
			if with, v = r.lookup(c, x, regs.get(x.SourceRegister)); v != nil {
				then, ends = r.verdict(c, v, p, jumps)
			} else if with == maybe && x.IsDestRegSet {
				then = anything
			}
		case *expr.Match:
			with = extension(x)
		case *expr.Verdict:
			then, ends = r.verdict(c, x, p, jumps)
		case *expr.Reject:
			then = drops
		case *expr.Target:
			then = target(x.Name)
		case *expr.Queue, *expr.SynProxy:
			then = accepts | drops
		case *expr.Counter, *expr.Log, *expr.Masq, *expr.NAT, *expr.Redir, *expr.Notrack, *expr.FlowOffload:
		case *expr.Objref:
			if x.Type != unix.NFT_OBJECT_COUNTER {
				with = maybe
			}
		case *expr.Limit, *expr.Quota, *expr.Connlimit:
			with = maybe
		default: // it may load a register, or not match
			with = maybe
		}
		if m = min(m, with); m == no {
			return no, goesOn, false
		}
	}
	return m, then, ends
}

// verdict says what a verdict makes of the packet.
func (r *ruleset) verdict(c *chain, v *expr.Verdict, p packet, jumps int) (then outcome, ends bool) {
	switch v.Kind {
	case expr.VerdictAccept:
		return accepts, true
	case expr.VerdictDrop:
		return drops, true
	case expr.VerdictReturn:
		return goesOn, true
	case expr.VerdictContinue, expr.VerdictBreak:
		return goesOn, false
	case expr.VerdictJump, expr.VerdictGoto:
		to, ok := r.chains[chainKey{c.key.tableKey, v.Chain}]
		if !ok {
			return anything, false
		}
		return r.follow(to, p, jumps-1), v.Kind == expr.VerdictGoto
	}
	return anything, false
}

// target says what a target of iptables makes of the packet.
func target(name string) outcome {
	switch name {
	case "REJECT", "DROP":
		return drops
	case "LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TCPMSS", "TRACE", "DSCP", "TOS", "CLASSIFY", "SET", "AUDIT":
		return goesOn
	}
	return anything
}

// extension says whether a match of iptables matches the packet.
func extension(m *expr.Match) match {
	states := func(b xt.ConntrackMtinfoBase, mask uint32) match {
		const state = uint16(xt.ConntrackState)
		if b.MatchFlags&^uint16(xt.ConntrackStateAlias) != state {
			return maybe
		}
		return is((mask&expr.CtStateBitNEW != 0) != (b.InvertFlags&state != 0))
	}
	switch x := m.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.ConntrackMtinfo1:
		return states(x.ConntrackMtinfoBase, uint32(x.StateMask))
	case *xt.ConntrackMtinfo2:
		return states(x.ConntrackMtinfoBase, uint32(x.StateMask))
	case *xt.ConntrackMtinfo3:
		return states(x.ConntrackMtinfoBase, uint32(x.StateMask))
	case *xt.Unknown:
		// struct xt_physdev_info: four fields of IFNAMSIZ, invert, bitmask.
		const invert, bitmask, bridged = 64, 65, 4 // XT_PHYSDEV_OP_BRIDGED
		if b := *x; m.Name == "physdev" && len(b) > bitmask && b[bitmask] == bridged {
			return is(b[invert]&bridged == 0)
		}
	}
	return maybe
}

// lookup looks a register up in a set, or a map of verdicts.
func (r *ruleset) lookup(c *chain, l *expr.Lookup, value []byte) (match, *expr.Verdict) {
	list, ok := r.sets[chainKey{c.key.tableKey, l.SetName}]
	if value == nil || !ok {
		return maybe, nil
	}
	for _, e := range list {
		switch {
		case e.IntervalEnd, e.KeyEnd != nil:
			return maybe, nil // a set of ranges
		case !bytes.Equal(e.Key, value):
		case l.Invert:
			return no, nil
		case l.IsDestRegSet && e.VerdictData == nil:
			return maybe, nil // a map of other values
		default:
			return yes, e.VerdictData
		}
	}
	return is(l.Invert), nil
}

func is(b bool) match {
	if b {
		return yes
	}
	return no
}
