package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
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

// paint returns the text in the color, or as it is.
func (p palette) paint(c color, text string) string {
	if !p || c == 0 || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// colorFlag is when output is coloured.
type colorFlag string

var colorTimes = []string{"auto", "always", "never"}

// addColor adds the flag of the verbs that color what they print.
func addColor(c *cobra.Command, f *colorFlag) {
	*f = "auto"
	c.Flags().Var(f, "color", "when to color: auto (on a terminal, unless NO_COLOR is set), always or never")
}

// Set implements pflag.Value.
func (f *colorFlag) Set(s string) error {
	if !slices.Contains(colorTimes, s) {
		return fmt.Errorf("%q: want one of %s", s, strings.Join(colorTimes, ", "))
	}
	*f = colorFlag(s)
	return nil
}

// Type implements pflag.Value.
func (f *colorFlag) Type() string { return "WHEN" }

// String implements pflag.Value.
func (f *colorFlag) String() string { return string(*f) }

// palette is what the flag, the environment (no-color.org) and the place that is
// written to come to.
func (f colorFlag) palette(w io.Writer) palette {
	switch f {
	case "always":
		return true
	case "never":
		return false
	}
	return palette(os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w))
}
