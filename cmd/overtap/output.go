package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

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
	rows   [][]string
}

// add appends a row; its cells are printed as fmt.Print does.
func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = orDash(fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

func (t *table) print(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.header}, t.rows...) {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// orDash returns "-" for a cell with nothing in it.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
