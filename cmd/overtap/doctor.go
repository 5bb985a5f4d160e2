package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/doctor"
)

func newDoctorCommand() *cobra.Command {
	var d daemonFlags
	var path string
	var json bool
	c := &cobra.Command{
		Use:   "doctor [--config FILE]",
		Short: "Look over this host: what overtap needs, and what may swallow frames",
		Long: `Look over this host: what overtap needs, and what on it may swallow frames. With
--config also whether a daemon could start with that configuration, and whether its
peers answer. Nothing is changed. The exit code is 1 when something will not work.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s := doctor.Subject{Status: d.client().Status}
			if path != "" {
				var err error
				if s.Config, err = config.Load(path); err != nil {
					return err
				}
				if !c.Flags().Changed("socket") {
					d.socket = s.Config.Control.Socket
					s.Status = d.client().Status
				}
			}
			runtime.LockOSThread() // netlink sockets are of a thread's namespace
			defer runtime.UnlockOSThread()
			all := doctor.Run(c.Context(), s)
			print := printFindings
			if json {
				print = func(w io.Writer, all []doctor.Finding) error { return printJSON(w, all) }
			}
			if err := print(c.OutOrStdout(), all); err != nil {
				return err
			}
			if doctor.Failed(all) {
				return errors.New("something will not work: see what failed")
			}
			return nil
		},
	}
	d.add(c)
	addConfig(c, &path)
	addJSON(c, &json)
	return c
}

// printFindings prints a line for each finding, and what to do below it.
func printFindings(w io.Writer, all []doctor.Finding) error {
	for _, f := range all {
		if _, err := fmt.Fprintf(w, "%-5s %s: %s\n", f.Level, f.Check, f.Text); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		if f.Remedy != "" {
			fmt.Fprintf(w, "      try: %s\n", f.Remedy)
		}
	}
	return nil
}
