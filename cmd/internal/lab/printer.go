package lab

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Printer prints for the person at the terminal.
type Printer struct {
	W       io.Writer
	ASCII   bool   // the terminal shows nothing else
	Command string // how overtap was called, as the shell takes it
}

// NewPrinter looks at this process's environment, and at how it was called.
func NewPrinter(w io.Writer) *Printer {
	return &Printer{W: w, ASCII: !utf8Locale(os.Getenv), Command: command()}
}

// printf prints; every character has the same width in ASCII.
func (p *Printer) printf(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if p.ASCII {
		s = ascii.Replace(s)
	}
	// What is printed is not worth failing for: the lab does not depend on it.
	_, _ = io.WriteString(p.W, s)
}

var ascii = strings.NewReplacer(
	"┌", "+", "┐", "+", "└", "+", "┘", "+", "├", "+", "┤", "+", "┼", "+",
	"─", "-", "│", "|", "→", ">", "µ", "u",
)

// utf8Locale reports whether the characters of the locale are UTF-8's, by the
// variables in their order of rank (locale(7)).
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := getenv(name); v != "" {
			v = strings.ToUpper(v)
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return false
}

// command returns the words that called this program, without its arguments:
// `go run ./cmd/overtap` when the Go command did it.
func command() string {
	words := []string{os.Args[0]}
	if parent, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid())); err == nil {
		if run := goRun(strings.Split(strings.TrimSuffix(string(parent), "\x00"), "\x00"), os.Args[1:]); run != nil {
			words = run
		}
	}
	if os.Getenv("SUDO_USER") != "" && os.Geteuid() == 0 {
		words = append([]string{"sudo"}, words...)
	}
	return shellWords(words)
}

// goRun returns the words before args of a parent process that is `go run`, or
// nil.
func goRun(parent, args []string) []string {
	n := len(parent) - len(args)
	if n < 3 || filepath.Base(parent[0]) != "go" || parent[1] != "run" {
		return nil
	}
	return parent[:n]
}

// shellWords joins words so that a shell parts them again.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("+-./:=@_%,^~", r) &&
				(r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// plural returns n with the noun that fits it.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
