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
	var json jsonFlag
	c := &cobra.Command{
		Use:   "doctor [--config FILE]",
		Short: "Examine this host: what overtap needs, and what may drop frames",
		Long: `Examine this host: what overtap needs, and what on it may drop frames. With
--config also whether a daemon could start with that configuration, and whether its
peers answer. Nothing is changed. The exit code is 1 when something will not work.`,
		Example: `  overtap doctor
  overtap doctor --config /etc/overtap/overtap.toml`,
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
			runtime.LockOSThread() // netlink sockets belong to the namespace of a thread
			defer runtime.UnlockOSThread()
			all := doctor.Run(c.Context(), s)
			if err := json.print(c, all, func(w io.Writer) error { return printFindings(w, all) }); err != nil {
				return err
			}
			if doctor.Failed(all) {
				return errors.New("something will not work: see the lines that begin with fail")
			}
			return nil
		},
	}
	d.add(c)
	addConfig(c, &path)
	json.add(c)
	return c
}

// printFindings prints a line for each finding, and its remedy below it.
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
