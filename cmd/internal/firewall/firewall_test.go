package firewall

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"overtap/cmd/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// The parts of rules, as nft and iptables-nft write them.
func name(key expr.MetaKey, s string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: ifName(s)}}
}

func in(s string) []expr.Any  { return name(expr.MetaKeyIIFNAME, s) }
func out(s string) []expr.Any { return name(expr.MetaKeyOIFNAME, s) }

// starting is `iifname "s*"`.
func starting(s string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: []byte(s)}}
}

func notIn(s string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpNeq, Data: ifName(s)}}
}

func proto(n byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: []byte{n}}}
}

// source is `ip saddr 198.51.100.0/24`.
func source() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 3},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: []byte{198, 51, 100}},
	}
}

// state is `ct state …` of bits.
func state(bits byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{bits, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Register: 1, Op: expr.CmpOpNeq, Data: make([]byte, 4)},
	}
}

// conntrack is `-m conntrack --ctstate …`.
func conntrack(mask uint16) []expr.Any {
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState|xt.ConntrackStateAlias), mask
	return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}
}

func physdev(invert byte) []expr.Any {
	b := make(xt.Unknown, 68)
	b[64], b[65] = invert, 4
	return []expr.Any{&expr.Match{Name: "physdev", Info: &b}}
}

func then(kind expr.VerdictKind, to ...string) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: kind, Chain: strings.Join(to, "")}}
}

func accept() []expr.Any              { return then(expr.VerdictAccept) }
func drop() []expr.Any                { return then(expr.VerdictDrop) }
func jump(to string) []expr.Any       { return then(expr.VerdictJump, to) }
func goTo(to string) []expr.Any       { return then(expr.VerdictGoto, to) }
func back() []expr.Any                { return then(expr.VerdictReturn) }
func rule(p ...[]expr.Any) []expr.Any { return slices.Concat(p...) }

// rules makes a ruleset of one table. "FORWARD" is its base chain.
func rules(family nftables.TableFamily, drops bool, chains map[string][][]expr.Any) *ruleset {
	r := &ruleset{chains: make(map[chainKey]*chain)}
	for name, list := range chains {
		c := &chain{key: chainKey{tableKey{family, "filter"}, name}}
		for _, e := range list {
			c.rules = append(c.rules, &nftables.Rule{Exprs: e})
		}
		if name == "FORWARD" {
			c.base, c.drops = true, drops
			r.bases = append(r.bases, c)
		}
		r.chains[c.key] = c
	}
	r.elements = func(tableKey, string) ([]nftables.SetElement, error) { return nil, errors.New("no set") }
	r.load()
	return r
}

// A filter is blamed for what it surely drops, and for nothing that one of its
// rules may let pass.
func TestFollow(t *testing.T) {
	type chains = map[string][][]expr.Any
	docker := func(user ...[]expr.Any) chains {
		return chains{
			"FORWARD": {
				rule(jump("DOCKER-USER")), rule(jump("DOCKER-ISOLATION")),
				rule(out("docker0"), conntrack(6), accept()), rule(out("docker0"), jump("DOCKER")),
				rule(in("docker0"), accept()),
			},
			"DOCKER-USER":      append(user, rule(back())),
			"DOCKER-ISOLATION": {rule(in("docker0"), drop()), rule(back())},
			"DOCKER":           {rule(out("docker0"), accept())},
		}
	}
	const (
		passes = ""
		policy = "the policy of the chain ip filter FORWARD"
		byRule = "a rule of the chain ip filter FORWARD"
	)
	for _, c := range []struct {
		name   string
		drops  bool // the policy
		chains chains
		want   string
	}{
		{"no rules, accept", false, chains{"FORWARD": nil}, passes},
		{"no rules, drop", true, chains{"FORWARD": nil}, policy},
		{"docker", true, docker(), policy},
		{"docker, let pass", true, docker(rule(in("br0"), out("br0"), accept())), passes},
		{"docker, another bridge let pass", true, docker(rule(in("br1"), out("br1"), accept())), policy},
		{"wildcard", true, chains{"FORWARD": {rule(starting("br"), accept())}}, passes},
		{"another wildcard", true, chains{"FORWARD": {rule(starting("bo"), accept())}}, policy},
		{"all but others", true, chains{"FORWARD": {rule(notIn("eth0"), accept())}}, passes},
		{"all but this", true, chains{"FORWARD": {rule(notIn("br0"), accept())}}, policy},
		{"established alone", true, chains{"FORWARD": {rule(state(6), accept())}}, policy},
		{"new too", true, chains{"FORWARD": {rule(state(8|6), accept())}}, passes},
		{"established alone, by iptables", true, chains{"FORWARD": {rule(conntrack(6), accept())}}, policy},
		{"new, by iptables", true, chains{"FORWARD": {rule(conntrack(8), accept())}}, passes},
		{"ICMP alone", true, chains{"FORWARD": {rule(proto(1), accept())}}, policy},
		{"TCP", true, chains{"FORWARD": {rule(proto(6), accept())}}, passes},
		{"a subnet, which may be theirs", true, chains{"FORWARD": {rule(source(), accept())}}, passes},
		{"bridged", true, chains{"FORWARD": {rule(physdev(0), accept())}}, passes},
		{"not bridged", true, chains{"FORWARD": {rule(physdev(4), accept())}}, policy},
		{"a drop of a subnet", false, chains{"FORWARD": {rule(source(), drop())}}, passes},
		{"a drop of the bridge", false, chains{"FORWARD": {rule(in("br0"), drop())}}, byRule},
		{"rejected at the end", false, chains{"FORWARD": {rule(state(6), accept()), rule([]expr.Any{&expr.Reject{}})}}, byRule},
		{"REJECT of iptables", false, chains{"FORWARD": {rule([]expr.Any{&expr.Target{Name: "REJECT"}})}}, byRule},
		{"a jump that accepts", true, chains{"FORWARD": {rule(jump("x"))}, "x": {rule(accept())}}, passes},
		{"a goto that returns to the policy", true, chains{"FORWARD": {rule(goTo("x")), rule(accept())}, "x": {rule(back()), rule(accept())}}, policy},
		{"a jump that may return", true, chains{"FORWARD": {rule(jump("x")), rule(accept())}, "x": {rule(source(), back()), rule(drop())}}, passes},
		{"a return that ends nothing", true, chains{"FORWARD": {rule(jump("x")), rule(accept())}, "x": {rule(in("eth0"), back()), rule(drop())}}, byRule},
		{"a set that is not known", true, chains{"FORWARD": {rule([]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: "s"}}, accept())}}, passes},
		{"chains in a circle", true, chains{"FORWARD": {rule(jump("FORWARD"))}}, passes},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rules(nftables.TableFamilyIPv4, c.drops, c.chains)
			got := ""
			if b := r.block(packet{bridge: "br0", netfilter: true}); b != nil {
				got = b.String()
			}
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			for what, p := range map[string]packet{"IPv6": {bridge: "br0", ipv6: true, netfilter: true}, "no br_netfilter": {bridge: "br0"}} {
				if b := r.block(p); b != nil {
					t.Errorf("%s: %s", what, b)
				}
			}
		})
	}
}

// The remedy lets the bridge's own frames pass, where such rules belong.
func TestRemedy(t *testing.T) {
	user := map[string][][]expr.Any{"FORWARD": {rule(jump("DOCKER-USER"))}, "DOCKER-USER": nil}
	plain := map[string][][]expr.Any{"FORWARD": nil}
	for _, c := range []struct {
		family nftables.TableFamily
		chains map[string][][]expr.Any
		p      packet
		want   string
	}{
		{nftables.TableFamilyIPv4, user, packet{bridge: "br0", netfilter: true}, "iptables -I DOCKER-USER -i br0 -o br0 -j ACCEPT"},
		{nftables.TableFamilyIPv6, user, packet{bridge: "br0", netfilter: true, ipv6: true}, "ip6tables -I DOCKER-USER -i br0 -o br0 -j ACCEPT"},
		{nftables.TableFamilyIPv4, plain, packet{bridge: "br0", netfilter: true}, "iptables -I FORWARD -i br0 -o br0 -j ACCEPT"},
		{nftables.TableFamilyINet, plain, packet{bridge: "br0", netfilter: true}, "nft insert rule inet filter FORWARD iifname br0 oifname br0 accept"},
		{nftables.TableFamilyBridge, plain, packet{bridge: "br0"}, "nft insert rule bridge filter FORWARD meta ibrname br0 accept"},
	} {
		b := rules(c.family, true, c.chains).block(c.p)
		if b == nil || b.Remedy != c.want {
			t.Errorf("%v: %+v, want %s", c.family, b, c.want)
		}
	}
}

// Rules are read from the kernel, sets and maps of verdicts with them.
func TestRead(t *testing.T) {
	netnstest.Require(t)
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	look := func() string {
		t.Helper()
		r, err := read()
		if err != nil {
			t.Fatal(err)
		}
		var bridges []string
		for _, bridge := range []string{"br0", "br1"} {
			if r.block(packet{bridge: bridge, netfilter: true}) != nil {
				bridges = append(bridges, bridge)
			}
		}
		return strings.Join(bridges, " ")
	}
	if got := look(); got != "" {
		t.Errorf("without rules: %s", got)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"})
	policy := nftables.ChainPolicyDrop
	base := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	}()
	if got := look(); got != "br0 br1" {
		t.Errorf("with a policy of drop: %q", got)
	}
	set := &nftables.Set{Table: table, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
	if err := c.AddSet(set, []nftables.SetElement{{Key: ifName("br1"), VerdictData: &expr.Verdict{Kind: expr.VerdictAccept}}}); err != nil {
		t.Fatal(err)
	}
	c.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != "br0" {
		t.Errorf("with a map that accepts br1: %q", got)
	}
	// A Watcher reads again when the rules have changed, and only then.
	was, err := generation()
	if err != nil || was == 0 {
		t.Fatalf("generation %d, %v", was, err)
	}
	var w Watcher
	if _, err := w.Look([]string{"br0"}); err != nil {
		t.Fatal(err)
	}
	w.blocks = []Block{{Bridge: "kept"}}
	if got, err := w.Look([]string{"br0"}); err != nil || len(got) != 1 || got[0].Bridge != "kept" {
		t.Errorf("the same rules: %v, %v", got, err)
	}
	c.AddChain(&nftables.Chain{Name: "other", Table: table})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if now, err := generation(); err != nil || now == was {
		t.Errorf("generation %d after %d, %v", now, was, err)
	}
	if got, err := w.Look([]string{"br0"}); err != nil || len(got) > 0 && got[0].Bridge == "kept" {
		t.Errorf("other rules: %v, %v", got, err)
	}
}
