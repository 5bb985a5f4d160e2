package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// lines lists what the scanner found in a text, as "path line" in the order of
// lines and paths.
func lines(n *node) []string {
	var out []string
	var walk func(n *node)
	walk = func(n *node) {
		if n.parent != nil {
			out = append(out, fmt.Sprintf("%03d %s", n.line, n.path()))
		}
		for _, c := range n.table {
			walk(c)
		}
		for _, c := range n.items {
			walk(c)
		}
	}
	walk(n)
	slices.Sort(out)
	return out
}

// TestScan checks the line of every key in TOML's many spellings, and that the
// parser finds the same keys.
func TestScan(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "", nil},
		{"no newline at the end", "a = 1", []string{"001 a"}},
		{"byte order mark", "\ufeffa = 1\nb = 2\n", []string{"001 a", "002 b"}},
		{"carriage returns", "a = 1\r\n\r\n[b] # x\r\nc = \"x\"\r\n", []string{"001 a", "003 b", "004 b.c"}},
		{"comments", "# a = 1\n  # [b]\nc = 1 # d = 2\n", []string{"003 c"}},
		{"implicit tables", "[a.b]\nc = 1\n[a]\nd = 1\n", []string{"001 a.b", "002 a.b.c", "003 a", "004 a.d"}},
		{"dotted keys", "a.b.c = 1\na . d = 2\n", []string{"001 a", "001 a.b", "001 a.b.c", "002 a.d"}},
		{"quoted keys", "\"a.b\".'c]' = 1\n[ \"d\\u002e\" . e ]\n\"\" = 1\n", []string{
			`001 "a.b"`, `001 "a.b"."c]"`, `002 "d."`, `002 "d.".e`, `003 "d.".e.""`}},
		{"arrays of tables", "[[a]]\nb = 1\n  [[a.c]]\n  [[a.c]]\n  d = 1\n[[a]]\n [a.e]\n [[a.c]]\n f = 1\n", []string{
			"001 a", "001 a[0]", "002 a[0].b", "003 a[0].c", "003 a[0].c[0]", "004 a[0].c[1]", "005 a[0].c[1].d",
			"006 a[1]", "007 a[1].e", "008 a[1].c", "008 a[1].c[0]", "009 a[1].c[0].f"}},
		{"arrays over lines", "a = [ # [\n 1,\n  # 2, ]\n [3,\n 4], \"]\",\n]\nb = 1\n", []string{
			"001 a", "002 a[0]", "004 a[1]", "004 a[1][0]", "005 a[1][1]", "005 a[2]", "007 b"}},
		{"inline tables", "a = { b = 1, c.d = \"}\", e = [ {}, { f = 2 } ] }\nb = 1\n", []string{
			"001 a", "001 a.b", "001 a.c", "001 a.c.d", "001 a.e", "001 a.e[0]", "001 a.e[1]", "001 a.e[1].f", "002 b"}},
		{"inline tables over lines", "a = {\n b = 1,\n # }\n c = 2,\n}\nd = 1\n", []string{
			"001 a", "002 a.b", "004 a.c", "006 d"}},
		{"inline arrays of tables", "a = [\n { b = 1 },\n { b = 2,\n   c = 3 },\n]\n", []string{
			"001 a", "002 a[0]", "002 a[0].b", "003 a[1]", "003 a[1].b", "004 a[1].c"}},
		{"strings", `a = "\"# [x]"` + "\n" + `b = '\'` + "\n" + `c = ""` + "\n" + `d = "\\"` + "\n" + "e = 1\n", []string{
			"001 a", "002 b", "003 c", "004 d", "005 e"}},
		{"multi-line strings", "a = \"\"\"\nx = 1\n[[y]]\n\\\"\"\" \"\" \\\n\"\"\"\"\"\nb = '''\n''\\'''\nc = \"\"\"\"\"\"\nd = 1\n", []string{
			"001 a", "006 b", "008 c", "009 d"}},
		{"dates", "a = 1979-05-27 07:32:00 # x\nb = [07:32:00, 1979-05-27]\nc = -inf\n", []string{
			"001 a", "002 b", "002 b[0]", "002 b[1]", "003 c"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var values map[string]any
			if _, err := toml.Decode(test.text, &values); err != nil {
				t.Fatal(err)
			}
			root, again := scan(test.text)
			if len(again) != 0 {
				t.Errorf("%s is said to be set twice", again[0].path())
			}
			if d := cmp.Diff(test.want, lines(root)); d != "" {
				t.Errorf("lines differ (-want +got):\n%s", d)
			}
			checkScan(t, root, values)
		})
	}
}

// checkScan checks that scanned node n has the shape, keys and elements of what
// the TOML parser read.
func checkScan(t *testing.T, n *node, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		if n.kind != tableKind || len(n.table) != len(v) {
			t.Errorf("line %d: %s: scanned kind %d with %d keys, parsed a table of %d", n.line, n.path(), n.kind, len(n.table), len(v))
		}
		for key, e := range v {
			if c := n.table[key]; c != nil {
				checkScan(t, c, e)
			} else {
				t.Errorf("line %d: %s: key %q was not scanned", n.line, n.path(), key)
			}
		}
	case []map[string]any:
		elements := make([]any, len(v))
		for i := range v {
			elements[i] = v[i]
		}
		checkScan(t, n, elements)
	case []any:
		if n.kind != arrayKind || len(n.items) != len(v) {
			t.Errorf("line %d: %s: scanned kind %d with %d elements, parsed an array of %d", n.line, n.path(), n.kind, len(n.items), len(v))
			return
		}
		for i, e := range v {
			checkScan(t, n.items[i], e)
		}
	case string:
		if n.kind != scalarKind || !strings.HasPrefix(n.text, `"`) && !strings.HasPrefix(n.text, `'`) {
			t.Errorf("line %d: %s: scanned %s, parsed string %q", n.line, n.path(), n.text, v)
		}
	case int64, bool:
		if n.kind != scalarKind {
			t.Errorf("line %d: %s: scanned %s, parsed %v", n.line, n.path(), n.text, v)
		}
	}
}

// TestScanEnds checks that the scanner ends on what is not TOML, since it does
// not look before it scans.
func TestScanEnds(t *testing.T) {
	for _, text := range []string{
		"[", "[[", "]", "}", "=", "a", "a =", "a = [", "a = [}", "a = {]", "a = {=", `a = "`, `a = "\`, `a = """\`, `a = """""`,
		"a = '''", `"\`, ".", "a.", "\x00", "[a", "[[a]", "a = [1 2 3", "#",
	} {
		scan(text)
	}
}
