package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

const examplePath = "../../../config.example.toml"

// exampleKey matches a line of the example that holds a key or a table, switched
// off or not.
var exampleKey = regexp.MustCompile(`^\s*(#?)(\[+[a-z.]+\]+|([a-z0-9_]+) *=.*)$`)

// TestExample checks that the example loads as it is.
func TestExample(t *testing.T) {
	cfg, err := Load(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Desired(1500); err != nil {
		t.Error(err)
	}
}

// switchedOn returns the example with everything in it switched on; an
// alternative replaces the line it stands under.
func switchedOn(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	previous := ""
	for _, line := range strings.Split(string(text), "\n") {
		m := exampleKey.FindStringSubmatch(line)
		if m == nil {
			if s := strings.TrimSpace(line); s != "" && s != "#" && !strings.HasPrefix(s, "# ") {
				t.Errorf("neither key nor explanation: %q", line)
			}
			continue
		}
		if m[1] == "#" && m[3] != "" && m[3] == previous {
			out = out[:len(out)-1]
		}
		out, previous = append(out, m[2]), m[3]
	}
	return strings.Join(out, "\n")
}

// TestExampleSwitchedOn checks that the part that is switched off loads too.
func TestExampleSwitchedOn(t *testing.T) {
	if _, err := Parse("example", []byte(switchedOn(t))); err != nil {
		t.Error(err)
	}
}

// TestExampleIsComplete checks that the example has every key of the schema and
// no other.
func TestExampleIsComplete(t *testing.T) {
	var values map[string]any
	if _, err := toml.Decode(switchedOn(t), &values); err != nil {
		t.Fatal(err)
	}
	var have []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, e := range v {
				have = append(have, path+key)
				walk(path+key+".", e)
			}
		case []map[string]any:
			for _, e := range v {
				walk(path, e)
			}
		}
	}
	walk("", values)

	want := schema("", reflect.TypeFor[rawConfig]())
	slices.Sort(have)
	slices.Sort(want)
	if d := cmp.Diff(want, slices.Compact(have)); d != "" {
		t.Errorf("keys differ (-schema +example):\n%s", d)
	}
}

// schema lists the paths of all keys of a raw struct.
func schema(path string, t reflect.Type) []string {
	var keys []string
	for i, key := range schemaKeys(t) {
		keys = append(keys, path+key)
		f := t.Field(i + 1).Type
		if f.Kind() == reflect.Slice {
			f = f.Elem()
		}
		if _, ok := f.FieldByName("section"); ok {
			keys = append(keys, schema(path+key+".", f)...)
		}
	}
	return keys
}

// TestExampleExplains checks that each key's comment says whether it is required
// or what its default is.
func TestExampleExplains(t *testing.T) {
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	var comment, previous string
	for _, line := range strings.Split(string(text), "\n") {
		m := exampleKey.FindStringSubmatch(line)
		switch {
		case m == nil:
			comment += line + "\n"
			continue
		case m[3] != "" && m[3] != previous && !strings.Contains(comment, "Default") && !strings.Contains(comment, "Required."):
			t.Errorf("%q: neither a default nor that it is required", line)
		}
		comment, previous = "", m[3]
	}
}
