package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// kind is the shape of a node.
type kind uint8

const (
	scalarKind kind = iota
	tableKind
	arrayKind
)

// node is one key of the file, one element of an array, or the root: its value
// and its place.
type node struct {
	parent *node
	key    string // in a table
	index  int    // in an array; -1 for what is not an element
	line   int    // from 1
	text   string // the value, or the table's header, as written

	kind  kind
	value any              // of a scalar: string, int64, float64, bool or time.Time
	table map[string]*node // of a table
	items []*node          // of an array
}

// child returns the node of a key of table n; a key that is new becomes an
// empty table on the given line.
func (n *node) child(key string, line int) *node {
	if c, ok := n.table[key]; ok {
		return c
	}
	c := &node{kind: tableKind, line: line}
	n.put(key, c)
	return c
}

// put makes c the node of a key of table n.
func (n *node) put(key string, c *node) {
	if n.table == nil {
		n.table = make(map[string]*node)
	}
	c.parent, c.key, c.index = n, key, -1
	n.table[key] = c
}

// push makes c the last element of array n.
func (n *node) push(c *node) {
	c.parent, c.index = n, len(n.items)
	n.items = append(n.items, c)
}

// fill enters the value that the TOML parser found for n. Keys and elements
// that the scanner did not find are added on n's own line.
func (n *node) fill(v any) {
	switch v := v.(type) {
	case map[string]any:
		n.kind = tableKind
		for key, e := range v {
			n.child(key, n.line).fill(e)
		}
	case []map[string]any:
		n.kind = arrayKind
		for i, e := range v {
			n.item(i).fill(e)
		}
	case []any:
		n.kind = arrayKind
		for i, e := range v {
			n.item(i).fill(e)
		}
	default:
		n.kind, n.value = scalarKind, v
	}
}

func (n *node) item(i int) *node {
	for len(n.items) <= i {
		n.push(&node{line: n.line})
	}
	return n.items[i]
}

// path returns the path of n from the root, such as vxlan[0].peer[1].address.
func (n *node) path() string {
	switch {
	case n.parent == nil:
		return ""
	case n.index >= 0:
		return n.parent.path() + "[" + strconv.Itoa(n.index) + "]"
	case n.parent.parent == nil:
		return shownKey(n.key)
	}
	return n.parent.path() + "." + shownKey(n.key)
}

// shownKey quotes a key that is not a bare one.
func shownKey(key string) string {
	bare := key != ""
	for _, r := range key {
		bare = bare && isBare(r)
	}
	if bare {
		return shown(key)
	}
	return shown(strconv.Quote(key))
}

func isBare(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}

// network returns the name of the [[vxlan]] or [[ipip]] table that n lies in,
// or "".
func (n *node) network() string {
	for ; n.parent != nil; n = n.parent {
		if n.index < 0 || n.parent.parent == nil || n.parent.parent.parent != nil {
			continue
		}
		if name, ok := n.table["name"]; ok {
			s, _ := name.value.(string)
			return shown(s)
		}
	}
	return ""
}

// is says what n is, in TOML's words.
func (n *node) is() string {
	switch {
	case n.kind == tableKind:
		return "a table"
	case n.kind == arrayKind && strings.HasPrefix(n.text, "[["):
		return "an array of tables"
	case n.kind == arrayKind:
		return "an array"
	}
	switch n.value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date or time"
	}
	return fmt.Sprintf("a %T", n.value)
}
