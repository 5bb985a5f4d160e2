package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"overtap/encap"
)

// Change is one key, or one element of a list of tables, in which two configurations
// differ. The JSON names are part of the command line's contract.
type Change struct {
	Network string `json:"network,omitempty"` // that it belongs to; "" outside of one
	// Key is the path in the network, or in the file outside of one: "probe",
	// "peer[192.0.2.2].flood", "underlay.address". It is "" for a network that is
	// new or gone.
	Key  string `json:"key,omitempty"`
	Line int    `json:"line,omitempty"` // in the next file; 0 = it is not there any more
	// From and To are the values as written, shortened; "" = the key or element is
	// not set.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`

	table string // the file's own path, such as vxlan[0].probe
}

// At is the change as a mistake of the next file.
func (c *Change) At(file, problem string) Error {
	return Error{File: file, Line: max(c.Line, 1), Key: cmp.Or(c.table, c.Key), Network: c.Network, Value: cmp.Or(c.To, "not set"), Problem: problem}
}

// String is the change as a line: what it is from and to.
func (c *Change) String() string {
	switch {
	case c.From == "":
		return fmt.Sprintf("%s: not set → %s", c.Key, c.To)
	case c.To == "":
		return fmt.Sprintf("%s: %s → not set", c.Key, c.From)
	}
	return fmt.Sprintf("%s: %s → %s", c.Key, c.From, c.To)
}

// identities are the keys by which elements of lists of tables are the same ones,
// by the lists' keys.
var identities = map[string]string{
	"vxlan": "name", "ipip": "name", "peer": "address", "fdb": "mac", "neighbor": "address", "route": "prefix",
}

// Changes are the keys in which next differs from c, in the order of next's lines;
// those that are gone come last. A value that is only written in another way is none.
func (c *Config) Changes(next *Config) []Change {
	if c.root == nil || next.root == nil {
		return nil
	}
	d := &differ{}
	d.tables("", c.root, next.root)
	slices.SortStableFunc(d.changes, func(a, b Change) int {
		last := func(c Change) int {
			if c.Line == 0 {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	return d.changes
}

// differ collects changes.
type differ struct {
	network string // that is compared
	changes []Change
}

// tables compares two tables; either may be nil. path is that of their keys,
// with its dot.
func (d *differ) tables(path string, was, next *node) {
	keys := make(map[string]bool)
	for _, n := range []*node{was, next} {
		if n != nil {
			for key := range n.table {
				keys[key] = true
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		d.compare(path, key, at(was, key), at(next, key))
	}
}

func at(n *node, key string) *node {
	if n == nil {
		return nil
	}
	return n.table[key]
}

func (d *differ) compare(path, key string, was, next *node) {
	one := cmp.Or(next, was)
	id, listed := identities[key]
	switch {
	case listed && one.kind == arrayKind:
		d.lists(path, key, id, was, next)
	case one.kind == tableKind:
		d.tables(path+key+".", was, next)
	case written(was) != written(next):
		d.note(path+key, was, next)
	}
}

// lists compares two lists of tables whose elements are known by a key.
func (d *differ) lists(path, key, id string, was, next *node) {
	old, young := elements(was, id), elements(next, id)
	ids := make(map[string]bool)
	for _, of := range []map[string]*node{old, young} {
		for name := range of {
			ids[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ids)) {
		a, b := old[name], young[name]
		network := path == "" && (key == "vxlan" || key == "ipip")
		switch {
		case network:
			d.network = name
			if a == nil || b == nil {
				d.note("", a, b)
			} else {
				d.tables("", a, b)
			}
			d.network = ""
		case a == nil || b == nil:
			d.note(path+key+"["+name+"]", a, b)
		default:
			d.tables(path+key+"["+name+"].", a, b)
		}
	}
}

// elements are those of a list by their identity.
func elements(list *node, id string) map[string]*node {
	all := make(map[string]*node)
	if list == nil {
		return all
	}
	for _, e := range list.items {
		name := written(e.table[id])
		all[strings.Trim(name, `"`)] = e
	}
	return all
}

func (d *differ) note(key string, was, next *node) {
	c := Change{Network: d.network, Key: key, From: valueOf(was), To: valueOf(next)}
	if next != nil {
		c.Line, c.table = next.line, next.path()
	}
	d.changes = append(d.changes, c)
}

// valueOf is a node's value as a change shows it.
func valueOf(n *node) string {
	if n == nil {
		return ""
	}
	return shown(written(n))
}

// written is a node's value in one way of writing it, so that values that mean the
// same are equal: durations, addresses and MACs may be written in several.
func written(n *node) string {
	if n == nil {
		return ""
	}
	switch n.kind {
	case tableKind:
		parts := make([]string, 0, len(n.table))
		for _, key := range slices.Sorted(maps.Keys(n.table)) {
			parts = append(parts, key+" = "+written(n.table[key]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case arrayKind:
		parts := make([]string, 0, len(n.items))
		for _, e := range n.items {
			parts = append(parts, written(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	s, ok := n.value.(string)
	if !ok {
		return fmt.Sprint(n.value)
	}
	if d, err := time.ParseDuration(s); err == nil {
		s = d.String()
	} else if a, err := netip.ParseAddr(s); err == nil {
		s = a.String()
	} else if p, err := netip.ParsePrefix(s); err == nil {
		s = p.String()
	} else if m, err := encap.ParseMAC(s); err == nil {
		s = m.String()
	}
	return `"` + s + `"`
}
