package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const referencePath = "../../../docs/configuration.md"

const referenceIntro = `<!-- Made by go generate ./cmd/internal/config; the words are those of config.example.toml. -->
# Configuration

Every key of the file that ` + "`overtap run --config`" + ` reads. [config.example.toml](../config.example.toml)
has them all with values, to copy from. The file is TOML and read strictly: an unknown
key, a wrong type or a value out of range is an error that names file, line and key;
` + "`overtap check FILE`" + ` reports all of them at once, and warns of what is probably not meant.

"Reload" says whether a running daemon takes a change by ` + "`overtap reload`" + `:

- **yes**: beside running traffic.
- **new network**: not while the network or tunnel runs: a reload refuses it and changes
  nothing. Remove the network by one reload and add it by the next, or start a new daemon.
  Another ` + "`name`" + ` is another network: the old one is removed, and the new one added.
- **new daemon**: by none: [restart, or start a new one that takes over](operations.md).

Networks, tunnels, peers, entries and routes are added and removed by a reload.
`

// documented is a key or a table of the example, with its comment as one line.
type documented struct {
	table  string // path of the table, or of the table the key is in
	header string // of a table, with its brackets; "" for a key
	key    string
	text   string
}

func (d documented) required() bool { return strings.Contains(d.text, "Required.") }

// literal is a default that is a value of TOML.
var (
	defaultText = regexp.MustCompile(`Default:? (.*?)\.(?: |$)`)
	literal     = regexp.MustCompile(`^("[^"]*"|\[\]|[0-9]+|true|false)(.*)$`)
)

// fallback is the value that holds where the file is silent, and what is said of
// it; without a value it depends on something.
func (d documented) fallback() (value, words string) {
	m := defaultText.FindStringSubmatch(d.text)
	if m == nil {
		return "", ""
	}
	if l := literal.FindStringSubmatch(m[1]); l != nil {
		return l[1], l[2]
	}
	return "", m[1]
}

// example lists the tables and keys of the example in their order, alternatives
// left out, and their values as written.
func example(t *testing.T) (all []documented, values map[string]string) {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	values = make(map[string]string)
	var comment []string
	table := ""
	for _, line := range strings.Split(string(text), "\n") {
		words, isComment := strings.CutPrefix(strings.TrimSpace(line), "# ")
		m := exampleKey.FindStringSubmatch(line)
		switch {
		case isComment:
			comment = append(comment, words)
			continue
		case m == nil: // the comment above was of nothing
		case m[3] == "":
			table = strings.Trim(m[2], "[]")
			all = append(all, documented{table: table, header: m[2], text: strings.Join(comment, " ")})
		case values[table+"."+m[3]] == "":
			_, value, _ := strings.Cut(m[2], "=")
			values[table+"."+m[3]] = strings.TrimSpace(value)
			all = append(all, documented{table: table, key: m[3], text: strings.Join(comment, " ")})
		}
		comment = nil
	}
	return all, values
}

// minimal is the example with all its tables but only the required keys, and with
// what with says of one more: its value, or "" to leave it out.
func minimal(t *testing.T, table, key, with string) []byte {
	t.Helper()
	all, values := example(t)
	var b strings.Builder
	for _, d := range all {
		value := values[d.table+"."+d.key]
		this := d.table == table && d.key == key
		if this {
			value = with
		}
		switch {
		case d.header != "":
			fmt.Fprintln(&b, d.header)
		case value != "" && (this || d.required()):
			fmt.Fprintf(&b, "%s = %s\n", d.key, value)
		}
	}
	return []byte(b.String())
}

// revealing are values that the checks say most about, where others say less.
var revealing = map[string]string{"vxlan.group": `"192.0.2.1"`, "ipip.name": `"longer-than-a-tun"`}

// accepts is the type and range of a key: what the checks say that they want
// where it has a value that none takes.
func accepts(t *testing.T, f reflect.StructField, d documented) string {
	t.Helper()
	isList := f.Type == reflect.TypeFor[list]()
	prefix := map[reflect.Type]string{
		reflect.TypeFor[leaf[string]](): "string: ", reflect.TypeFor[leaf[int64]](): "integer: ", reflect.TypeFor[union](): "",
		reflect.TypeFor[list](): f.Tag.Get("want") + "; each ", reflect.TypeFor[leaf[bool]](): "true or false",
	}[f.Type]
	if f.Type == reflect.TypeFor[leaf[bool]]() {
		return prefix
	}
	for _, bad := range []string{revealing[d.table+"."+d.key], `"\u0000"`, `["\u0000"]`, "1", "-1"} {
		var es Errors
		_, err := Parse("example", minimal(t, d.table, d.key, bad))
		if !errors.As(err, &es) || bad == "" {
			continue
		}
		for _, e := range es {
			_, want, _ := strings.Cut(e.Problem, "; want ")
			such, only := strings.CutPrefix(want, "one such as ")
			switch {
			case isList != strings.HasSuffix(e.Key, "]") || strings.HasPrefix(e.Problem, "is an ") || strings.HasPrefix(e.Problem, "is a string"):
				// A wrong type says no more than the schema.
			case only && isList:
				return f.Tag.Get("want")
			case only:
				return strings.TrimSuffix(prefix, ": ") + ", such as " + such
			default:
				return prefix + want
			}
		}
	}
	return ""
}

// TestReference compares docs/configuration.md with what the schema, the checks
// and the example make of it.
func TestReference(t *testing.T) {
	all, _ := example(t)
	at := make(map[string]documented)
	for _, d := range all {
		path := strings.TrimSuffix(d.table+"."+d.key, ".")
		if _, twice := at[path]; twice || d.text == "" {
			t.Errorf("%s stands in the example twice or without a comment", path)
		}
		at[path] = d
	}
	var b strings.Builder
	b.WriteString(referenceIntro)
	writeTables(t, &b, at, "", "", reflect.TypeFor[rawConfig]())
	got := b.String()
	if *update {
		if err := os.WriteFile(referencePath, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(have), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("docs/configuration.md is not current: go generate ./cmd/internal/config (-have +want):\n%s", d)
	}
}

// writeTables describes the keys of a raw struct, then its tables. Reload is what
// a change anywhere in it needs, "" where its keys say.
func writeTables(t *testing.T, b *strings.Builder, at map[string]documented, path, reload string, of reflect.Type) {
	t.Helper()
	if d, ok := at[path]; ok {
		fmt.Fprintf(b, "\n## `%s`\n\n%s\n\n| key | accepts | default | reload | meaning |\n| --- | --- | --- | --- | --- |\n", d.header, marked(d.text))
	} else if path != "" {
		t.Errorf("the example has no table %s", path)
	}
	var tables []reflect.StructField
	for i := 1; i < of.NumField(); i++ {
		f := of.Field(i)
		if _, scalar := reflect.New(f.Type).Interface().(binder); !scalar {
			tables = append(tables, f)
			continue
		}
		key := f.Tag.Get("toml")
		d, ok := at[path+"."+key]
		if !ok {
			t.Errorf("the example has no key %s.%s", path, key)
		}
		needs := map[string]string{"": "yes", "network": "new network", "daemon": "new daemon"}[reload+f.Tag.Get("reload")]
		value, words := d.fallback()
		if value != "" {
			words = "`" + value + "`" + marked(words)
		} else if d.required() {
			words = "required"
		}
		meaning := strings.TrimSpace(strings.ReplaceAll(defaultText.ReplaceAllString(d.text, ""), "Required.", ""))
		cells := []string{"`" + key + "`", accepts(t, f, d), words, needs, marked(strings.ReplaceAll(meaning, "  ", " "))}
		if slices.Contains(cells, "") || strings.Contains(strings.Join(cells, ""), "|") {
			t.Errorf("%s.%s: a cell is empty or holds a bar: %q", path, key, cells)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	for _, f := range tables {
		sub := f.Type
		if sub.Kind() == reflect.Slice {
			sub = sub.Elem()
		}
		writeTables(t, b, at, strings.TrimPrefix(path+"."+f.Tag.Get("toml"), "."), reload+f.Tag.Get("reload"), sub)
	}
}

// marked is a comment as Markdown: tables and keys as code, documents as links. What
// is code already stays as it is.
func marked(s string) string {
	parts := strings.Split(s, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = markedText(parts[i])
	}
	return strings.Join(parts, "`")
}

func markedText(s string) string {
	s = regexp.MustCompile(`\b([a-z0-9]+\.)*[a-z]+(_[a-z]+)+\b`).ReplaceAllString(s, "`$0`")
	s = regexp.MustCompile(`\[+[a-z]+(\.[a-z]+)?\]+`).ReplaceAllString(s, "`$0`")
	return regexp.MustCompile(`docs/([a-z]+\.md)`).ReplaceAllString(s, "[$1]($1)")
}

// TestReferenceDefaults checks that what is documented as a key's default is what
// a file without the key means, and that what is documented as required is.
func TestReferenceDefaults(t *testing.T) {
	parse := func(text []byte) *Config {
		cfg, err := Parse("example", text)
		if err != nil {
			return nil
		}
		cfg.Control.MetricsDefault, cfg.root = false, nil
		for i := range cfg.VXLAN {
			cfg.VXLAN[i].mtuAt = Error{} // says whether the key is there
		}
		for i := range cfg.IPIP {
			cfg.IPIP[i].mtuAt = Error{}
		}
		return cfg
	}
	all, _ := example(t)
	var derived []string
	for _, d := range all {
		path := d.table + "." + d.key
		value, _ := d.fallback()
		without := parse(minimal(t, d.table, d.key, ""))
		switch {
		case d.header != "":
		case d.required() != (without == nil):
			t.Errorf("%s: documented as required: %t", path, d.required())
		case d.required():
		case value == "":
			derived = append(derived, path)
		case !reflect.DeepEqual(without, parse(minimal(t, d.table, d.key, value))):
			t.Errorf("%s: the default is not %s", path, value)
		}
	}
	if want := []string{"vxlan.tap", "vxlan.mac", "vxlan.peer.udp6zerocsumrx", "vxlan.peer.macs"}; !slices.Equal(derived, want) {
		t.Errorf("no value for a default that others do not decide: %q, want %q", derived, want)
	}
}
