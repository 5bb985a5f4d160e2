package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"overtap/cmd/internal/printable"
)

// Error is one mistake of a configuration file.
type Error struct {
	File    string `json:"file"`              // as it was given to Load or Parse
	Line    int    `json:"line"`              // of the key, from 1; of the table when the key is missing
	Key     string `json:"key,omitempty"`     // path of the key, such as vxlan[0].peer[1].address; "" when the mistake has none
	Network string `json:"network,omitempty"` // name of the network the key belongs to; "" outside of one
	Value   string `json:"value,omitempty"`   // as written, shortened; "not set" when the key is missing
	Problem string `json:"problem"`           // what is wrong and what is accepted
}

// Error formats the mistake as one line:
//
//	FILE:LINE: KEY (network "NAME"): VALUE: what is wrong; what is accepted
func (e Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	if e.Key != "" {
		b.WriteString(e.Key)
		if e.Network != "" {
			fmt.Fprintf(&b, " (network %q)", e.Network)
		}
		b.WriteString(": ")
	}
	if e.Value != "" {
		b.WriteString(e.Value + ": ")
	}
	b.WriteString(e.Problem)
	return b.String()
}

// Errors are all mistakes of one file, in the order of its lines. Load, Parse
// and Config.Desired return them as an error that errors.As finds.
type Errors []Error

// Error formats every mistake on a line of its own.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// orNil sorts the mistakes and returns them as an error, or nil when there are
// none.
func (es Errors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortStableFunc(es, func(a, b Error) int {
		return cmp.Or(
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Key, b.Key),
			cmp.Compare(a.Problem, b.Problem))
	})
	return es
}

// maxShown bounds how much of a value an error repeats, in bytes.
const maxShown = 60

// shown returns s as an error repeats it: its first line, shortened, without
// characters that could disturb a terminal or break the line.
func shown(s string) string {
	line, _, more := strings.Cut(s, "\n")
	if len(line) > maxShown {
		cut := maxShown
		for cut > 0 && !utf8.RuneStart(line[cut]) {
			cut--
		}
		line, more = line[:cut], true
	}
	line = printable.String(strings.TrimSpace(line))
	if more {
		line += "…"
	}
	return line
}
