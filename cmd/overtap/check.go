package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
	"overtap/dataplane"
	"overtap/encap"
)

func newCheckCommand() *cobra.Command {
	var path string
	var strict bool
	var json jsonFlag
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, without root and without touching this host",
		Long: `Check a configuration file, ` + defaultConfig + ` unless FILE or --config names another,
without root and without touching this host. All mistakes are reported at once, each
with its line and what is accepted. Warnings name what is accepted but probably not
meant: subnets that overlap, one address on two devices, the address of a network
itself, a network without peers and group, learning = false without entries, suppress
without neighbours. The exit code is 1 when there is a mistake, and with --strict when
there is a warning.`,
		Example: `  overtap check blue.toml
  overtap check --strict --json --config /etc/overtap/overtap.toml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, file, err := load(c, path, args)
			var mistakes config.Errors
			if err != nil && (!bool(json) || !errors.As(err, &mistakes)) {
				return err
			}
			out := newChecked(file, cfg, mistakes)
			var failed error
			switch m, w := len(out.Errors), len(out.Warnings); {
			case m > 0: // the JSON has them
				failed = fmt.Errorf("%s has %s", file, plural(m, "mistake", "mistakes"))
			case strict && w > 0:
				failed = fmt.Errorf("%s has %s, and --strict fails on them", file, plural(w, "warning", "warnings"))
			}
			err = json.print(c, out, func(w io.Writer) error {
				for _, warning := range out.Warnings {
					fmt.Fprintf(c.ErrOrStderr(), "warning: %v\n", warning)
				}
				if failed != nil {
					return nil
				}
				return out.print(w, cfg.Underlay.Address)
			})
			return errors.Join(err, failed)
		},
	}
	addConfig(c, &path)
	c.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	json.add(c)
	return c
}

// addConfig adds the flag that names the configuration.
func addConfig(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", "", "the configuration `FILE`")
	complete(c, "config", completeFiles)
}

// defaultConfig is the configuration where the command line names none.
const defaultConfig = "/etc/overtap/overtap.toml"

// load reads the configuration that the flag or the argument names, else the default
// one, and says which it is.
func load(c *cobra.Command, flag string, args []string) (cfg *config.Config, file string, err error) {
	file, err = configFile(c, flag, args)
	if err != nil {
		return nil, "", err
	}
	cfg, err = config.Load(file)
	if errors.Is(err, fs.ErrNotExist) && flag == "" && len(args) == 0 {
		err = fmt.Errorf("%w; name another as FILE: %s FILE", err, c.CommandPath())
	}
	return cfg, file, err
}

// configFile is the file that the flag or the argument names.
func configFile(c *cobra.Command, flag string, args []string) (string, error) {
	named := c.Flags().Changed("config")
	switch {
	case named && len(args) > 0:
		return "", usageError{errors.New("name the configuration once, as FILE or by --config")}
	case named && flag == "" || len(args) > 0 && args[0] == "":
		return "", usageError{errors.New("the configuration's name is empty")}
	case named:
		return flag, nil
	case len(args) > 0:
		return args[0], nil
	}
	return defaultConfig, nil
}

// checked is the JSON of check.
type checked struct {
	Config   string           `json:"config"`
	Sound    bool             `json:"sound"` // there is no mistake
	Errors   config.Errors    `json:"errors"`
	Warnings config.Errors    `json:"warnings"`
	Networks []checkedNetwork `json:"networks"`
}

// checkedNetwork describes a network or tunnel of the file.
type checkedNetwork struct {
	Name      string           `json:"name"`
	Kind      dataplane.Kind   `json:"kind"`
	VNI       *encap.VNI       `json:"vni,omitempty"` // of a network, as all to Bridge are
	Port      uint16           `json:"port,omitempty"`
	MAC       string           `json:"mac,omitempty"`
	Bridge    string           `json:"bridge,omitempty"`
	Device    string           `json:"device"`
	MTU       encap.OverlayMTU `json:"mtu"` // 0 = derived from the underlay's
	Addresses []netip.Prefix   `json:"addresses"`
	Peers     int              `json:"peers"`  // listed
	FDB       int              `json:"fdb"`    // static entries
	Routes    int              `json:"routes"` // into it
}

// newChecked describes a sound configuration, or one with mistakes.
func newChecked(file string, cfg *config.Config, mistakes config.Errors) checked {
	out := checked{Config: file, Sound: cfg != nil, Errors: mistakes, Warnings: config.Errors{}, Networks: []checkedNetwork{}}
	if cfg == nil {
		return out
	}
	out.Errors = config.Errors{}
	out.Warnings = append(out.Warnings, cfg.Warnings...)
	for _, v := range cfg.VXLAN {
		out.Networks = append(out.Networks, checkedNetwork{
			Name: v.Name, Kind: dataplane.KindVXLAN, VNI: &v.VNI, Port: v.Port, MAC: v.MAC.String(), Bridge: v.Bridge, Device: v.Device, MTU: v.MTU,
			Addresses: append([]netip.Prefix{}, v.Addresses...), Peers: len(v.Peers), FDB: len(v.FDB), Routes: len(v.Routes),
		})
	}
	for _, t := range cfg.IPIP {
		peers := make(map[netip.Addr]bool)
		for _, r := range t.Routes {
			peers[r.Peer] = true
		}
		out.Networks = append(out.Networks, checkedNetwork{
			Name: t.Name, Kind: dataplane.KindIPIP, Device: t.Name, MTU: t.MTU,
			Addresses: append([]netip.Prefix{}, t.Addresses...), Peers: len(peers), Routes: len(t.Routes),
		})
	}
	return out
}

// print prints a table of the networks and one of the tunnels.
func (c *checked) print(w io.Writer, underlay netip.Addr) error {
	fmt.Fprintf(w, "%s: sound: underlay %s, %s\n", c.Config, underlay, plural(len(c.Networks), "network", "networks"))
	networks := table{header: []string{"NETWORK", "VNI", "PORT", "DEVICE", "MAC", "MTU", "BRIDGE", "PEERS", "FDB"}}
	tunnels := table{header: []string{"IP-IN-IP", "MTU", "ADDRESSES", "ROUTES"}}
	for _, n := range c.Networks {
		mtu := "underlay's"
		if n.MTU != 0 {
			mtu = fmt.Sprint(n.MTU)
		}
		if n.Kind == dataplane.KindIPIP {
			tunnels.add(n.Name, mtu, joined(n.Addresses, ","), n.Routes)
			continue
		}
		networks.add(n.Name, *n.VNI, n.Port, n.Device, n.MAC, mtu, n.Bridge, n.Peers, n.FDB)
	}
	return errors.Join(networks.print(w), tunnels.print(w))
}
