package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/printable"
)

// color is a parameter of Select Graphic Rendition (ECMA-48 section 8.3.117); 0
// is none.
type color int

const (
	bold   color = 1
	red    color = 31
	green  color = 32
	yellow color = 33
)

// painted is text in a color, where that is shown.
type painted struct {
	color
	text string
}

// palette says whether colors are shown.
type palette bool

// paint returns the text in the color, or as it is; either way it is printable.
func (p palette) paint(c color, text string) string {
	text = printable.Text(text)
	if !p || c == 0 || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// colorFlag is when output is coloured; "" is auto.
type colorFlag string

// addColor adds the flag of the verbs that color what they print.
func addColor(c *cobra.Command, f *colorFlag) {
	addOneOf(c, (*string)(f), []string{"auto", "always", "never"}, "color", "`WHEN` to color; auto, the default, is on a terminal unless NO_COLOR is set")
}

// palette decides by the flag, the environment (no-color.org) and the writer.
func (f colorFlag) palette(w io.Writer) palette {
	switch f {
	case "always":
		return true
	case "never":
		return false
	}
	return palette(os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w))
}
