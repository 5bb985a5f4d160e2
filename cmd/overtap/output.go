package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/printable"
)

// jsonFlag is --json of a verb that prints one answer.
type jsonFlag bool

func (j *jsonFlag) add(c *cobra.Command) {
	c.Flags().BoolVar((*bool)(j), "json", false, "print JSON")
}

// print prints v as JSON where that is asked for, else by text.
func (j jsonFlag) print(c *cobra.Command, v any, text func(io.Writer) error) error {
	if j {
		return printJSON(c.OutOrStdout(), v)
	}
	return text(c.OutOrStdout())
}

// addShow makes c a verb that asks the daemon and prints the answer, as JSON or by
// text, once or with --watch again and again. An answer with errNotReady is printed
// too, before the verb ends with it.
func addShow[T any](c *cobra.Command, ask func(*cobra.Command, *control.Client) (T, error), text func(*cobra.Command, T) error) {
	var d daemonFlags
	var json jsonFlag
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error {
		v, err := ask(c, d.client())
		if err != nil && err != errNotReady {
			return err
		}
		if failed := json.print(c, v, func(io.Writer) error { return text(c, v) }); failed != nil {
			return failed
		}
		return err
	}
	d.add(c)
	json.add(c)
	addWatch(c)
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
		row[i] = painted{p.color, orDash(printable.String(p.text))}
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

// printNone reports on standard error that there is nothing to show; on a screen that
// is shown again and again, in its place.
func printNone(c *cobra.Command, text string) error {
	w := c.ErrOrStderr()
	if s, ok := printable.Raw(c.OutOrStdout()).(*screen); ok {
		w = s
	}
	if _, err := fmt.Fprintln(w, text); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// printTables prints the tables that have rows, with an empty line between two, and
// before the first where it is below something. It reports whether anything is above.
func printTables(w io.Writer, below bool, p palette, all ...*table) (bool, error) {
	for _, t := range all {
		if len(t.rows) == 0 {
			continue
		}
		if below {
			fmt.Fprintln(w)
		}
		below, t.palette = true, p
		if err := t.print(w); err != nil {
			return true, err
		}
	}
	return below, nil
}

// joined is a list as one text.
func joined[T fmt.Stringer](list []T, between string) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, between)
}

// plural is a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// orDash returns "-" for a cell with nothing in it.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
