// Package firewall finds out whether the host's packet filter drops what the
// ports of a bridge send to each other.
//
// With br_netfilter (net.bridge.bridge-nf-call-iptables = 1) the kernel has
// bridged IPv4 and IPv6 packets pass by the FORWARD hook of the IP families as if
// they were routed, in by the bridge and out by the bridge
// (br_nf_forward_ip in net/bridge/br_netfilter_hooks.c). A policy of drop there,
// as container engines set it, keeps containers on a bridge from each other and
// from the overlay. Chains of the bridge family see the frames in any case.
package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Block says that the packet filter drops a new TCP connection between two ports
// of a bridge, whatever its addresses and ports are.
type Block struct {
	Bridge string
	IPv6   bool   // else IPv4
	Chain  string // the base chain that drops it, as `nft list chain` takes it
	Policy bool   // its policy does, not a rule
	// Netfilter: the frames pass by the chain because of br_netfilter.
	Netfilter bool
	Remedy    string // the command that lets them pass
}

// String says in a sentence what is dropped and what to do.
func (b Block) String() string {
	return fmt.Sprintf("%s; let it pass with `%s`", b.Problem(), b.Remedy)
}

// Problem says what is dropped, and by what.
func (b Block) Problem() string {
	what, how := "IPv4", "a rule of"
	if b.IPv6 {
		what = "IPv6"
	}
	if b.Policy {
		how = "the policy of"
	}
	by := ""
	if b.Netfilter {
		by = ", which bridged packets pass by (br_netfilter)"
	}
	return fmt.Sprintf("the firewall drops %s between the ports of %s: %s the chain %s%s", what, b.Bridge, how, b.Chain, by)
}

// Bridged reports whether bridged IPv4 and IPv6 packets pass by the FORWARD hook
// of the IP families, in the calling thread's network namespace.
func Bridged() (v4, v6 bool) { return sysctl("iptables"), sysctl("ip6tables") }

func sysctl(of string) bool {
	b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + of)
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// Legacy reports whether rules of iptables-legacy are there, which Look does not
// read: the kernel has no netlink for them.
func Legacy() bool {
	for _, table := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		if b, err := os.ReadFile(table); err == nil && slices.Contains(strings.Fields(string(b)), "filter") {
			return true
		}
	}
	return false
}

// Watcher looks again and again, and reads the rules only when they changed. It is
// for one goroutine at a time.
type Watcher struct {
	of     string // generation of the rules, and all else that the answer depends on
	blocks []Block
}

// Look returns what the rules of nftables, those of iptables-nft among them, surely
// drop on the bridges. It acts in the calling thread's network namespace. The slice
// belongs to the Watcher.
func (w *Watcher) Look(bridges []string) ([]Block, error) {
	if len(bridges) == 0 {
		return nil, nil
	}
	generation, err := generation()
	if err != nil {
		return nil, fmt.Errorf("asking for the generation of the rules of nftables: %w", err)
	}
	v4, v6 := Bridged()
	// Rules that change while they are read have another generation next time.
	of := fmt.Sprint(generation, v4, v6, bridges)
	if of == w.of {
		return w.blocks, nil
	}
	blocks, err := Look(bridges)
	if err != nil {
		return nil, err
	}
	w.of, w.blocks = of, blocks
	return blocks, nil
}

// generation is a number that each change of the rules raises (NFT_MSG_GETGEN); 0
// where the kernel has no nftables.
func generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("the kernel did not say")
}

// Look reads the rules and returns what they surely drop on the bridges, as
// Watcher.Look does.
func Look(bridges []string) ([]Block, error) {
	if len(bridges) == 0 {
		return nil, nil
	}
	rules, err := read()
	if err != nil {
		return nil, fmt.Errorf("reading the rules of nftables: %w", err)
	}
	var all []Block
	v4, v6 := Bridged()
	for _, bridge := range bridges {
		for _, p := range []packet{{bridge: bridge, ipv6: false}, {bridge: bridge, ipv6: true}} {
			p.netfilter = v4 && !p.ipv6 || v6 && p.ipv6
			if b := rules.block(p); b != nil {
				all = append(all, *b)
			}
		}
	}
	return all, nil
}

// read lists all chains that a bridged packet may meet, with their rules.
func read() (*ruleset, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) {
		return new(ruleset), nil // this kernel has no nftables
	}
	if err != nil {
		return nil, err
	}
	r := &ruleset{chains: make(map[chainKey]*chain)}
	tables := make(map[tableKey]bool) // with a chain at the hook
	for _, ch := range chains {
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward {
			tables[tableKey{ch.Table.Family, ch.Table.Name}] = true
		}
	}
	for _, ch := range chains {
		t := tableKey{ch.Table.Family, ch.Table.Name}
		if !tables[t] || !seesBridged(t.family) {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", ch.Name, err)
		}
		x := &chain{key: chainKey{t, ch.Name}, rules: rules}
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Type == nftables.ChainTypeFilter {
			x.base = true
			x.drops = ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
			if ch.Priority != nil {
				x.priority = int32(*ch.Priority)
			}
			r.bases = append(r.bases, x)
		}
		r.chains[x.key] = x
	}
	slices.SortStableFunc(r.bases, func(a, b *chain) int { return int(a.priority) - int(b.priority) })
	r.elements = func(t tableKey, set string) ([]nftables.SetElement, error) {
		return c.GetSetElements(&nftables.Set{Table: &nftables.Table{Name: t.name, Family: t.family}, Name: set})
	}
	// Sets are asked for while rules are followed.
	r.load()
	return r, nil
}

func seesBridged(f nftables.TableFamily) bool {
	switch f {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet, nftables.TableFamilyBridge:
		return true
	}
	return false
}
