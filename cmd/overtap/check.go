package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
)

func newCheckCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check a configuration file, without root and without touching this host",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c, path)
			if err != nil {
				return err
			}
			return summarize(c.OutOrStdout(), path, cfg)
		},
	}
	addConfig(c, &path)
	return c
}

// addConfig adds the flag that names the configuration.
func addConfig(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", "", "the configuration `FILE`")
}

// load reads the configuration that the command line must name.
func load(c *cobra.Command, path string) (*config.Config, error) {
	if path == "" {
		return nil, usageError{c.CommandPath(), errors.New("name the configuration with --config FILE")}
	}
	return config.Load(path)
}

// summarize prints what a sound configuration holds.
func summarize(w io.Writer, path string, cfg *config.Config) error {
	fmt.Fprintf(w, "%s: sound: underlay %s, %s\n", path, cfg.Underlay.Address, plural(len(cfg.VXLAN)+len(cfg.IPIP), "network", "networks"))
	t := table{header: []string{"NETWORK", "VNI", "PORT", "DEVICE", "MAC", "MTU", "BRIDGE", "PEERS", "FDB"}}
	for _, v := range cfg.VXLAN {
		mtu := "underlay's"
		if v.MTU != 0 {
			mtu = fmt.Sprint(v.MTU)
		}
		t.add(v.Name, v.VNI, v.Port, v.TAP, v.MAC, mtu, v.Bridge, len(v.Peers), len(v.FDB))
	}
	if err := t.print(w); err != nil {
		return err
	}
	t = table{header: []string{"IP-IN-IP", "MTU", "ADDRESSES", "ROUTES"}}
	for _, v := range cfg.IPIP {
		mtu := "underlay's"
		if v.MTU != 0 {
			mtu = fmt.Sprint(v.MTU)
		}
		t.add(v.Name, mtu, joined(v.Addresses, ","), len(v.Routes))
	}
	return t.print(w)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
