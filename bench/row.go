package bench

import (
	"fmt"
	"slices"
	"strings"

	"overtap/bench/netlab"
)

// Row says who makes the tunnel between the two sites.
type Row string

// The rows.
const (
	// Plain is no overlay: the sites' bridges are joined directly. It is what
	// the machine's containers and bridges can do at all.
	Plain Row = "plain"
	// Kernel is the kernel's vxlan at both ends, what all others are compared
	// with.
	Kernel Row = "kernel"
	// Overtap is `overtap run` at site a and the kernel's vxlan at site b.
	Overtap Row = "overtap"
	// Overtap2 is `overtap run` at both ends.
	Overtap2 Row = "overtap2"
	// Routed is no tunnel either: the hosts route between the subnets of their
	// containers. It is what IPIP is compared with.
	Routed Row = "routed"
	// IPIP is `overtap run` at both ends, with IP-in-IP between the subnets.
	IPIP Row = "ipip"
)

// Rows lists all rows.
var Rows = []Row{Plain, Kernel, Overtap, Overtap2, Routed, IPIP}

// DefaultRows are those of VXLAN, and what they are compared with.
var DefaultRows = []Row{Plain, Kernel, Overtap, Overtap2}

// Subnets reports whether the containers of the row are in a subnet each, so that
// what one Ethernet takes cannot be measured there.
func (r Row) Subnets() bool { return r == Routed || r == IPIP }

// NeedsKernel reports whether the row has a vxlan device of the kernel.
func (r Row) NeedsKernel() bool { return r == Kernel || r == Overtap }

// NeedsBinary reports whether the row has an overtap daemon.
func (r Row) NeedsBinary() bool { return r == Overtap || r == Overtap2 || r == IPIP }

// ParseRows reads a list of rows, separated by commas. Each counts once.
func ParseRows(list string) ([]Row, error) {
	return parseList("row", list, Rows, func(r Row) string { return string(r) })
}

// Lane is a row seen in one direction.
type Lane struct {
	Row Row `json:"row"`
	// Reverse is from site b to site a.
	Reverse bool `json:"reverse,omitempty"`
}

// String names the lane by what encapsulates and what decapsulates.
func (l Lane) String() string {
	switch {
	case l.Row == Overtap && l.Reverse:
		return "kernel → overtap"
	case l.Row == Overtap:
		return "overtap → kernel"
	case l.Row == Overtap2:
		return "overtap → overtap"
	case l.Row == Routed:
		return "routed, no tunnel"
	case l.Row == IPIP:
		return "overtap → overtap, IP-in-IP"
	}
	return string(l.Row)
}

// title names the lane in the tables of the load.
func title(l Lane, load Load) string {
	if load.Symmetric {
		return strings.Replace(l.String(), "→", "⇄", 1)
	}
	return l.String()
}

// lanes returns the directions in which the load is measured on the row: both
// where the ends differ and the load has a direction, none where the row has not
// what the load needs.
func lanes(r Row, l Load) []Lane {
	if r.Subnets() && l.needsEthernet() {
		return nil
	}
	if r == Overtap && !l.Symmetric {
		return []Lane{{Row: r}, {Row: r, Reverse: true}}
	}
	return []Lane{{Row: r}}
}

// underlayNames are those of the command line.
var underlayNames = map[netlab.Offload]string{
	netlab.AllOffloads:          "all",
	netlab.NoTunnelSegmentation: "notunnel",
	netlab.NoOffloads:           "none",
}

// UnderlayName returns the short name of a kind of underlay: all, notunnel or
// none.
func UnderlayName(o netlab.Offload) string { return underlayNames[o] }

// ParseUnderlays reads a list of kinds of underlay by their short names,
// separated by commas. Each counts once.
func ParseUnderlays(list string) ([]netlab.Offload, error) {
	return parseList("underlay", list, netlab.Offloads, UnderlayName)
}

// ParseLoads reads a list of loads by their names, separated by commas. Each
// counts once.
func ParseLoads(list string) ([]Load, error) {
	return parseList("load", list, Loads, func(l Load) string { return l.Name })
}

// parseList picks from all by name, in the order of all.
func parseList[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	var names []string
	for _, v := range all {
		names = append(names, name(v))
	}
	want := map[string]bool{}
	for f := range strings.SplitSeq(list, ",") {
		if f = strings.TrimSpace(f); !slices.Contains(names, f) {
			return nil, fmt.Errorf("%s %q: want some of %s", what, f, strings.Join(names, ","))
		}
		want[f] = true
	}
	var out []T
	for i, v := range all {
		if want[names[i]] {
			out = append(out, v)
		}
	}
	return out, nil
}
