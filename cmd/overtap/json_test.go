package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/capture"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/doctor"
	"overtap/cmd/internal/lab"
	"overtap/cmd/internal/top"
	"overtap/dataplane"
	"overtap/encap"
)

var updateDocs = flag.Bool("update", false, "rewrite docs/json.md from the types that the verbs print; its meanings stay")

const jsonDocument = "../../docs/json.md"

// answers are what the verbs print with --json, in the document's order. With the
// arguments, at a stand-in for the daemon, they print one; a stream prints one a line.
var answers = []struct {
	verb   string
	of     reflect.Type
	stream bool
	args   []string
}{
	{"status", reflect.TypeFor[control.Status](), false, nil},
	{"stats", reflect.TypeFor[dataplane.Stats](), false, nil},
	{"peers", reflect.TypeFor[[]dataplane.PeerStats](), false, nil},
	{"fdb show", reflect.TypeFor[[]dataplane.FDBEntry](), false, nil},
	{"fdb monitor", reflect.TypeFor[dataplane.FDBChange](), true, nil},
	{"neigh show", reflect.TypeFor[[]dataplane.NeighborEntry](), false, nil},
	{"cluster members", reflect.TypeFor[[]control.ClusterMember](), false, nil},
	{"cluster endpoints", reflect.TypeFor[[]control.ClusterEndpoint](), false, nil},
	{"cluster addresses", reflect.TypeFor[[]control.ClusterAddress](), false, nil},
	{"trace", reflect.TypeFor[dataplane.Explanation](), false, []string{"--network", "blue", "--src", "02:00:00:00:00:01", "--dst", "02:00:00:00:00:02"}},
	{"trace --live", reflect.TypeFor[capture.Journey](), true, nil},
	{"capture", reflect.TypeFor[capture.JSON](), true, nil},
	{"top", reflect.TypeFor[top.Rates](), false, []string{"--interval", "100ms"}},
	{"reload", reflect.TypeFor[control.Reloaded](), false, nil},
	{"attach", reflect.TypeFor[attach.Made](), false, []string{"blue", fmt.Sprint(os.Getpid()), "--address", "198.51.100.2/24"}},
	{"check", reflect.TypeFor[checked](), false, []string{"../../config.example.toml"}},
	{"doctor", reflect.TypeFor[[]doctor.Finding](), false, nil},
	{"lab list", reflect.TypeFor[[]lab.Status](), false, nil},
	{"version", reflect.TypeFor[build](), false, nil},
}

// leaves are types that are printed as one value, and what the document calls them.
var leaves = map[reflect.Type]string{
	reflect.TypeFor[time.Time](): "time", reflect.TypeFor[netip.Addr](): "address", reflect.TypeFor[netip.Prefix](): "prefix",
	reflect.TypeFor[encap.MAC](): "MAC", reflect.TypeFor[[]byte](): "base64",
	reflect.TypeFor[dataplane.Drop](): "string", reflect.TypeFor[dataplane.Direction](): "string", reflect.TypeFor[dataplane.Point](): "string",
}

// kind names the type of a value, and returns the struct that it is made of.
func kind(t reflect.Type) (name string, object reflect.Type) {
	if name, ok := leaves[t]; ok {
		return name, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kind(t.Elem())
	case reflect.Slice:
		name, object = kind(t.Elem())
		return "array of " + strings.NewReplacer("xs", "xes", "sss", "sses").Replace(name+"s"), object
	case reflect.Map:
		name, _ = kind(t.Elem())
		return "object of " + name + "s", nil
	case reflect.Struct:
		return "object", t
	case reflect.Bool:
		return "boolean", nil
	case reflect.String:
		return "string", nil
	}
	return "number", nil
}

// jsonDoc writes the document: a row for each field, with the meanings that it has.
type jsonDoc struct {
	strings.Builder
	meanings map[string]string // by section and field
	seen     map[reflect.Type]string
	section  string
}

// fields writes the rows of an object's fields, which all may be absent where it is one
// that is embedded by a pointer.
func (d *jsonDoc) fields(path string, of reflect.Type, absent bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			_, inner := kind(f.Type)
			d.fields(path, inner, f.Type.Kind() == reflect.Pointer)
			continue
		case !f.IsExported():
			continue
		}
		name, object := kind(f.Type)
		field := path + tag
		if _, again := d.seen[object]; again && object != nil {
			name += ", as " + d.seen[object]
		}
		if options != "" || absent {
			name += "; may be absent"
		}
		fmt.Fprintf(d, "| `%s` | %s | %s |\n", field, name, d.meanings[d.section+" "+field])
		if _, again := d.seen[object]; object != nil && !again {
			inner := field + "."
			if strings.HasPrefix(name, "array") {
				inner = field + "[]."
			}
			d.seen[object] = fmt.Sprintf("`%s` of `%s`", strings.TrimSuffix(inner, "."), d.section)
			d.fields(inner, object, false)
		}
	}
}

// Every verb that prints JSON is described in docs/json.md, field by field, as the
// types have them.
func TestJSONDocument(t *testing.T) {
	text := document(t, "docs", "json.md")
	head, rest, found := strings.Cut(text, "\n## `status`\n")
	tail, after, ends := strings.Cut("\n## `status`\n"+rest, "\n## Exit codes\n")
	if !found || !ends {
		t.Fatal("docs/json.md has no section for status, or none for the exit codes")
	}
	d := &jsonDoc{meanings: make(map[string]string), seen: make(map[reflect.Type]string)}
	words, section := make(map[string]string), ""
	for line := range strings.Lines(tail) {
		if m := regexp.MustCompile("^## `(.+)`\n$").FindStringSubmatch(line); m != nil {
			section = m[1]
		} else if m := regexp.MustCompile("^\\| `(.+?)` \\| .*? \\| (.*) \\|\n$").FindStringSubmatch(line); m != nil {
			d.meanings[section+" "+m[1]] = m[2]
		} else if !strings.HasPrefix(line, "|") && line != "\n" && !strings.HasPrefix(line, "An array") && !strings.HasPrefix(line, "An object a line") {
			words[section] += line
		}
	}
	d.WriteString(head)
	for _, a := range answers {
		d.section = a.verb
		name, object := kind(a.of)
		fmt.Fprintf(d, "\n## `%s`\n\n", a.verb)
		if words[a.verb] != "" {
			fmt.Fprintf(d, "%s\n", words[a.verb])
		}
		if as, again := d.seen[object]; again {
			fmt.Fprintf(d, "An %s, as %s.\n", name, as)
			continue
		}
		if a.stream {
			d.WriteString("An object a line:\n\n")
		} else if name != "object" {
			fmt.Fprintf(d, "An %s:\n\n", name)
		}
		d.seen[object] = fmt.Sprintf("`%s`", a.verb)
		d.WriteString("| field | type | meaning |\n| --- | --- | --- |\n")
		d.fields("", object, false)
	}
	d.WriteString("\n## Exit codes\n" + after)
	if *updateDocs {
		if err := os.WriteFile(jsonDocument, []byte(d.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(strings.Split(text, "\n"), strings.Split(d.String(), "\n")); diff != "" {
		t.Errorf("docs/json.md is not current: go test ./cmd/overtap -run TestJSONDocument -update (-have +want):\n%s", diff)
	}
	if i := strings.Index(d.String(), " |  |\n"); i >= 0 {
		t.Errorf("docs/json.md has a field without a meaning: %q", d.String()[max(0, i-60):i])
	}
}

// Every verb with --json is in the document, and prints what that says.
func TestJSONIsAsDocumented(t *testing.T) {
	var documented []string
	for _, a := range answers {
		documented = append(documented, a.verb)
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		verb := strings.TrimPrefix(c.CommandPath(), "overtap ")
		if c.HasSubCommands() {
			verb += " show" // which a group does by itself
		}
		if c.Flags().Lookup("json") != nil && !slices.Contains(documented, verb) {
			t.Errorf("docs/json.md does not describe %s", verb)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())

	dir := t.TempDir()
	full := serveAt(t, filepath.Join(dir, "full"), &fakeDaemon{full: true, probe: true})
	ends := serveAt(t, filepath.Join(dir, "ends"), &fakeDaemon{}) // its streams end
	for _, a := range answers {
		line := append(append(strings.Fields(a.verb), "--json"), a.args...)
		socket := full
		if a.stream {
			socket = ends
		}
		if a.verb != "check" && a.verb != "lab list" && a.verb != "version" {
			line = append(line, "--socket", socket)
		}
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code := execute(ctx, line, &stdout, &stderr)
		cancel()
		if code != exitOK && a.verb != "doctor" && !a.stream {
			t.Errorf("%s: exit code %d, %s", a.verb, code, &stderr)
			continue
		}
		printed := 0
		for dec := json.NewDecoder(&stdout); ; printed++ {
			var one json.RawMessage
			if err := dec.Decode(&one); err != nil {
				break
			}
			if string(one) == `{"lost":7}` {
				continue
			}
			strict := json.NewDecoder(bytes.NewReader(one))
			strict.DisallowUnknownFields()
			if err := strict.Decode(reflect.New(a.of).Interface()); err != nil {
				t.Errorf("%s prints %s: %v", a.verb, one, err)
			}
		}
		if printed == 0 {
			t.Errorf("%s printed nothing: %s", a.verb, &stderr)
		}
	}
}

// The exit codes are in the document, in the help of overtap and in its page.
func TestExitCodesAreDocumented(t *testing.T) {
	_, section, _ := strings.Cut(document(t, "docs", "json.md"), "\n## Exit codes\n")
	help := newRootCommand().Long
	for code, meaning := range exitCodes {
		if row := fmt.Sprintf("| %d | %s |\n", code, meaning); !strings.Contains(section, row) {
			t.Errorf("docs/json.md has no row %s", row)
		}
		if row := fmt.Sprintf("  %d  %s", code, meaning); !strings.Contains(help, row) {
			t.Errorf("the help of overtap has no line %q", row)
		}
	}
	if n := strings.Count(section, "\n| "); n != len(exitCodes)+2 {
		t.Errorf("docs/json.md has %d rows of exit codes, want %d", n-2, len(exitCodes))
	}
	if exitNotReady != len(exitCodes)-1 {
		t.Error("an exit code has no meaning here")
	}
}
