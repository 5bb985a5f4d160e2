package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// checker collects the mistakes of one file.
type checker struct {
	file     string
	errs     Errors
	failed   map[string]bool // the paths of errs
	warnings Errors
}

// fail reports that n is wrong; the text says how, and what is accepted.
func (c *checker) fail(n *node, format string, args ...any) {
	e := c.place(n)
	e.Problem = fmt.Sprintf(format, args...)
	c.errs = append(c.errs, e)
	c.failed[e.Key] = true
}

// place returns an error at n that has no problem yet.
func (c *checker) place(n *node) Error {
	return Error{File: c.file, Line: n.line, Key: n.path(), Network: n.network(), Value: shown(n.text)}
}

// required reports that a table lacks a key that it must have: at is nil.
func (c *checker) required(s section, at *node, key, want string) {
	if at == nil && s.ok { // that it is no table at all is reported already
		c.fail(s.unset(key), "is required; want %s", want)
	}
}

// unset returns a node for a key that the table lacks.
func (s section) unset(key string) *node {
	return &node{parent: s.at, key: key, index: -1, line: s.at.line, text: "not set"}
}

// bindTable fills dst, a struct that embeds section, from table n.
func (c *checker) bindTable(n *node, dst reflect.Value) {
	dst.Addr().Interface().(interface{ place(*node) }).place(n)
	known := schemaKeys(dst.Type())
	for i, key := range known {
		field, tag := dst.Field(i+1), dst.Type().Field(i+1).Tag
		child, set := n.table[key]
		b, scalar := field.Addr().Interface().(binder)
		switch {
		case scalar && set:
			b.bind(c, child, tag.Get("want"))
		case scalar:
		case field.Kind() == reflect.Slice && set:
			c.bindTables(child, field)
		case field.Kind() == reflect.Slice:
		case set && child.kind != tableKind:
			c.fail(child, "is %s; want a table: [%s]", child.is(), child.header())
		case set:
			c.bindTable(child, field)
		default:
			c.bindTable(&node{parent: n, key: key, index: -1, line: n.line}, field)
		}
	}
	for key, child := range n.table {
		if !slices.Contains(known, key) {
			hint := plural(key, n, child, dst.Type())
			if hint == "" {
				hint = suggestion(key, known)
			}
			c.fail(child, "unknown key; %s", hint)
		}
	}
}

// bindTables fills dst, a slice of structs that embed section, from an array of
// tables. Elements that are no tables are reported and removed.
func (c *checker) bindTables(n *node, dst reflect.Value) {
	if n.kind != arrayKind {
		c.fail(n, "is %s; want an array of tables: [[%s]]", n.is(), n.header())
		return
	}
	n.items = slices.DeleteFunc(n.items, func(e *node) bool {
		if e.kind != tableKind {
			c.fail(e, "is %s; want a table: [[%s]]", e.is(), e.header())
		}
		return e.kind != tableKind
	})
	for _, e := range n.items {
		v := reflect.New(dst.Type().Elem()).Elem()
		c.bindTable(e, v)
		dst.Set(reflect.Append(dst, v))
	}
}

// header returns the path of n as a table header holds it: without indexes.
func (n *node) header() string {
	for n.index >= 0 {
		n = n.parent
	}
	if n.parent == nil || n.parent.parent == nil {
		return shownKey(n.key)
	}
	return n.parent.header() + "." + shownKey(n.key)
}

// schemaKeys returns the keys of a raw struct in the order of its fields after
// the embedded section.
func schemaKeys(t reflect.Type) []string {
	keys := make([]string, 0, t.NumField()-1)
	for i := 1; i < t.NumField(); i++ {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

// suggestion says which of the known keys an unknown one was probably meant to
// be, or else which keys there are.
func suggestion(key string, known []string) string {
	plain := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, least := "", len(plain)/3+2
	for _, k := range known {
		if d := editDistance(plain, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	for _, word := range strings.Split(plain, "_") { // mac_address, src_port
		if best == "" && slices.Contains(known, word) {
			best = word
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "want one of " + strings.Join(known, ", ")
}

// editDistance returns how many bytes must be inserted, deleted or replaced to
// turn a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
