// Package printable keeps text from outside from acting on a terminal. Names of
// devices, containers and networks, and what a daemon says, may hold escape
// sequences: on their way out all that cannot be printed is escaped, in a notation
// that stays valid in a JSON string.
package printable

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// String escapes what cannot be printed, line ends and tabs among it: for names
// and cells, which are one line.
func String(s string) string { return escape(s, "") }

// Text escapes what cannot be printed but line ends and tabs: for messages.
func Text(s string) string { return escape(s, "\n\t") }

func escape(s, pass string) string {
	clean := true
	for _, r := range s {
		if !isPrintable(r, pass) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s { // of a byte that is no UTF-8 this is utf8.RuneError
		if isPrintable(r, pass) {
			b.WriteRune(r)
			continue
		}
		if r == utf8.RuneError {
			b.WriteString(`\ufffd`)
		} else if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// isPrintable reports whether r neither acts on a terminal (controls) nor on the
// text around it (formats, such as those that turn its direction).
func isPrintable(r rune, pass string) bool {
	return r != utf8.RuneError && unicode.IsPrint(r) || strings.ContainsRune(pass, r) && r < utf8.RuneSelf
}

// Writer escapes as Text what is written to it. A character may be cut in two by
// two writes; Close ends one that is left.
type Writer struct {
	W    io.Writer
	rest []byte // the beginning of a character
}

// Write implements io.Writer.
func (w *Writer) Write(b []byte) (int, error) {
	all := append(w.rest, b...)
	whole := len(all)
	for i := 1; i < utf8.UTFMax && i <= len(all); i++ {
		if tail := all[len(all)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				whole -= i
			}
			break
		}
	}
	text := Text(string(all[:whole]))
	w.rest = append(w.rest[:0:0], all[whole:]...)
	if _, err := io.WriteString(w.W, text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close writes what is left of a character that never ended. It does not close W.
func (w *Writer) Close() error {
	if len(w.rest) == 0 {
		return nil
	}
	_, err := io.WriteString(w.W, Text(string(w.rest)))
	w.rest = nil
	return err
}

// Raw is the writer below, for what is no text or is made of cleaned text, such as
// colors.
func Raw(w io.Writer) io.Writer {
	if p, ok := w.(*Writer); ok {
		return p.W
	}
	return w
}
