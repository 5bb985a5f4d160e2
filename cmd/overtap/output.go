package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
)

// defaultSocket is where the daemon listens when the configuration does not
// say otherwise.
const defaultSocket = "/run/overtap/control.sock"

// daemonFlags are the flags of the verbs that ask the daemon.
type daemonFlags struct {
	socket string
}

func (f *daemonFlags) add(c *cobra.Command) {
	socket := os.Getenv(control.SocketVar)
	if socket == "" {
		socket = defaultSocket
	}
	c.Flags().StringVar(&f.socket, "socket", socket, "the daemon's control socket")
}

func (f *daemonFlags) client() *control.Client { return control.NewClient(f.socket) }

// addJSON adds the flag of the verbs that print.
func addJSON(c *cobra.Command, json *bool) {
	c.Flags().BoolVar(json, "json", false, "print JSON")
}

// printJSON prints v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints aligned columns under a header, and nothing of it when there are
// no rows.
type table struct {
	header []string
	rows   [][]painted
	palette
}

// add appends a row; its cells are printed as fmt.Print does, or painted.
func (t *table) add(cells ...any) {
	row := make([]painted, len(cells))
	for i, c := range cells {
		p, ok := c.(painted)
		if !ok {
			p.text = fmt.Sprint(c)
		}
		row[i] = painted{p.color, orDash(p.text)}
	}
	t.rows = append(t.rows, row)
}

// print aligns by itself: text/tabwriter takes escape sequences for text.
func (t *table) print(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	header := make([]painted, len(t.header))
	for i, name := range t.header {
		header[i] = painted{bold, name}
	}
	rows := append([][]painted{header}, t.rows...)
	width := make([]int, len(header))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	b := bufio.NewWriter(w)
	for _, row := range rows {
		for i, c := range row {
			b.WriteString(t.paint(c.color, c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// printNone says beside the output that there is nothing to show; on a screen that is
// shown again and again, in its place.
func printNone(c *cobra.Command, text string) error {
	w := c.ErrOrStderr()
	if s, ok := c.OutOrStdout().(*screen); ok {
		w = s
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// orDash returns "-" for a cell with nothing in it.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
