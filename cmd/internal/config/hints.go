package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// This file recognises mistakes that are made often, and says what to write instead.

// utf16 reports whether the text is in UTF-16: it begins with its byte order mark, or
// every other of its first bytes is zero.
func utf16(text []byte) bool {
	if len(text) < 4 {
		return false
	}
	if text[0] == 0xff && text[1] == 0xfe || text[0] == 0xfe && text[1] == 0xff {
		return true
	}
	return text[0] != 0 && text[1] == 0 && text[2] != 0 && text[3] == 0 ||
		text[0] == 0 && text[1] != 0 && text[2] == 0 && text[3] != 0
}

// candidate names a configuration in a directory that was given for one; "" when
// there is none.
func candidate(dir string) string {
	names, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err != nil || len(names) == 0 {
		return ""
	}
	best := filepath.Join(dir, "overtap.toml")
	if !slices.Contains(names, best) {
		best = names[0]
	}
	if info, err := os.Stat(best); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return best
}

// orphans are tables of a network, such as [[vxlan.peer]], that stand before the
// first network: TOML has each belong to the one above it.
func orphans(file, text string) (es Errors) {
	networks := make(map[string]bool)
	s := newScanner(text)
	s.file()
	for _, h := range s.headings {
		owner := h.keys[0]
		switch {
		case owner != "vxlan" && owner != "ipip":
		case len(h.keys) == 1:
			networks[owner] = true
		case !networks[owner]:
			es = append(es, Error{File: file, Line: h.line, Key: strings.Join(h.keys, "."), Value: shown(h.text),
				Problem: fmt.Sprintf("stands before the network that it belongs to; want it below that network's [[%s]]", owner)})
		}
	}
	return es
}

// assignment is a key and what follows it on its line.
var assignment = regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+)\s*=\s*(.*?)\s*$`)

// bareword is what may have been meant to be a string.
var bareword = regexp.MustCompile(`[^\s,\[\]{}"'#=]+`)

// stringKeys are the last parts of all keys that take a string or a list of them.
var stringKeys = sync.OnceValue(func() map[string]bool {
	keys := make(map[string]bool)
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for i := 1; i < t.NumField(); i++ {
			f := t.Field(i)
			switch reflect.Zero(f.Type).Interface().(type) {
			case leaf[string], list, union:
				keys[f.Tag.Get("toml")] = true
				continue
			case leaf[int64], leaf[bool]:
				continue
			}
			if f.Type.Kind() == reflect.Slice {
				add(f.Type.Elem())
			} else {
				add(f.Type)
			}
		}
	}
	add(reflect.TypeFor[rawConfig]())
	return keys
})

// quoted returns the line as it is TOML once every bare word has quotes, or "" when it
// is not then either, has no word that needs any, or has a key that takes no string.
func quoted(line string) string {
	m := assignment.FindStringSubmatch(line)
	if m == nil || strings.ContainsAny(m[2], `"'{`) || !stringKeys()[m[1][strings.LastIndexByte(m[1], '.')+1:]] {
		return ""
	}
	value, _, _ := strings.Cut(m[2], "#")
	value = strings.TrimSpace(value)
	changed := false
	value = bareword.ReplaceAllStringFunc(value, func(w string) string {
		if _, err := toml.Decode("x = "+w, new(map[string]any)); err == nil {
			return w
		}
		changed = true
		return `"` + w + `"`
	})
	fixed := m[1] + " = " + value
	if _, err := toml.Decode(fixed, new(map[string]any)); !changed || err != nil {
		return ""
	}
	return fixed
}

// plural says what to write in place of a key that is the plural of a table's name,
// such as peers; "" when it is none. The key stands in n, whose schema is t, with
// that value.
func plural(key string, n, value *node, t reflect.Type) string {
	name := strings.TrimSuffix(key, "s")
	if name == key || n.parent == nil {
		return ""
	}
	for i := 1; i < t.NumField(); i++ {
		f := t.Field(i)
		if f.Tag.Get("toml") != name || f.Type.Kind() != reflect.Slice || f.Type.Elem().Kind() != reflect.Struct {
			continue
		}
		such := "…"
		if len(value.items) > 0 && value.items[0].kind != tableKind {
			such = shown(value.items[0].text)
		}
		return fmt.Sprintf("want a table for each, below the network: [[%s.%s]] with %s = %s",
			n.header(), name, f.Type.Elem().Field(1).Tag.Get("toml"), such)
	}
	return ""
}
