package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
)

// targets explains the argument TARGET of attach and detach.
const targets = `TARGET is
  a path      with a slash in it: /var/run/docker/netns/1a2b3c, /proc/42/ns/net
  a PID       digits only: a process in the container
  a name      of a namespace in /run/netns (` + "`ip netns list`" + `)
  a container of Docker or Podman, where no namespace has the name: asked for at
              DOCKER_HOST or CONTAINER_HOST (unix://PATH), or the usual sockets
as seen where the command runs, which need not be where the daemon runs.`

// prefixList and addressList are flags that may be given more than once.
type (
	prefixList  []netip.Prefix
	addressList []netip.Addr
)

// Set implements pflag.Value.
func (l *prefixList) Set(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("address %q: want one with its prefix length, such as 198.51.100.2/24 or 2001:db8::2/64", s)
	}
	*l = append(*l, p)
	return nil
}

// Type implements pflag.Value.
func (l *prefixList) Type() string { return "ADDRESS/LENGTH" }

// String implements pflag.Value.
func (l *prefixList) String() string { return joined(*l, ",") }

// Set implements pflag.Value.
func (l *addressList) Set(s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("gateway %q: want an IP address such as 198.51.100.1 or 2001:db8::1", s)
	}
	*l = append(*l, a)
	return nil
}

// Type implements pflag.Value.
func (l *addressList) Type() string { return "ADDRESS" }

// String implements pflag.Value.
func (l *addressList) String() string { return joined(*l, ",") }

func joined[T fmt.Stringer](list []T, between string) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, between)
}

func newAttachCommand() *cobra.Command {
	var d daemonFlags
	var addresses prefixList
	var gateways addressList
	var mac macFlag
	var ifName string
	var json bool
	c := &cobra.Command{
		Use:   "attach NETWORK TARGET --address ADDRESS/LENGTH",
		Short: "Put a container on a network",
		Long: `Put a container on a network that has a bridge: a veth pair, one end a port of
the bridge, the other a device in the container with the network's MTU, the
addresses, and default routes by way of the gateways. First it is asked on the
network whether somebody has the addresses; then they are announced. When a step
fails, everything is undone. The container stays attached when the daemon ends,
and the next one finds it; it is detached by ` + "`overtap detach`" + ` or by its end.

` + targets,
		Example: `  overtap attach blue web --address 198.51.100.2/24 --gateway 198.51.100.1
  overtap attach blue 4242 --address 198.51.100.3/24 --address 2001:db8::3/64 --ifname eth1`,
		Args: exactly("NETWORK", "TARGET"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkNames(args); err != nil {
				return usageError{c.CommandPath(), err}
			}
			if len(addresses) == 0 {
				return usageError{c.CommandPath(), errors.New("name the container's address with --address ADDRESS/LENGTH")}
			}
			ns, err := attach.Resolve(c.Context(), args[1])
			if err != nil {
				return err
			}
			defer ns.Close()
			m, err := d.client().Attach(c.Context(), ns, attach.Request{
				Network: args[0], Target: args[1],
				IfName: ifName, MAC: mac.MAC, Addresses: addresses, Gateways: gateways,
			})
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), m)
			}
			return printMade(c.OutOrStdout(), m)
		},
	}
	d.add(c)
	c.Flags().Var(&addresses, "address", "an address of the container; may be repeated")
	c.Flags().Var(&gateways, "gateway", "router of a default route; one each of IPv4 and IPv6")
	c.Flags().StringVar(&ifName, "ifname", "", "`NAME` of the device in the container (default the first free of eth0, eth1, …)")
	c.Flags().Var(&mac, "mac", "MAC of that device (default made from the first address: 02:42 and IPv4's four bytes)")
	addJSON(c, &json)
	return c
}

// checkNames refuses a network and a target that nothing can be.
func checkNames(args []string) error {
	if args[0] == "" {
		return errors.New("the network's name is empty")
	}
	return attach.CheckTarget(args[1])
}

func printMade(w io.Writer, m attach.Made) error {
	by := ""
	if len(m.Gateways) > 0 {
		by = ", default route by way of " + joined(m.Gateways, " and ")
	}
	_, err := fmt.Fprintf(w, "%s is attached to %s: %s, %s, MAC %s, MTU %d%s; its other end is %s on %s\n",
		m.Target, m.Network, m.IfName, joined(m.Addresses, ", "), m.MAC, m.MTU, by, m.Veth, m.Bridge)
	return err
}
