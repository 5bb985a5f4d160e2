package main

import (
	"errors"
	"fmt"
	"io"

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

func newAttachCommand() *cobra.Command {
	var d daemonFlags
	var json jsonFlag
	var r attach.Request
	c := &cobra.Command{
		Use:   "attach NETWORK TARGET --address ADDRESS/LENGTH",
		Short: "Put a container on a network",
		Long: `Put a container on a network that has a bridge: a veth pair, one end a port of
the bridge, the other a device in the container with the network's MTU, the
addresses, and default routes by way of the gateways. First it is asked on the
network whether the addresses are taken; then they are announced. With --address auto
it gets a free one of the network's range (docs/cluster.md). On a bridge
with a spanning tree both wait until the ports forward, half a minute each by
default. When a step fails, everything is undone. The container stays attached
when the daemon ends, and the next one finds it; it is detached by ` + "`overtap detach`" + `
or by its end, which the daemon logs. A container that comes back is to be
attached again; a network that a reload removes and another adds has its own again.

` + targets,
		Example: `  overtap attach blue web --address 198.51.100.2/24 --gateway 198.51.100.1
  overtap attach blue 4242 --address auto --address 2001:db8::3/64 --ifname eth1`,
		Args: exactly("NETWORK", "TARGET"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkNames(args); err != nil {
				return err
			}
			if len(r.Addresses) == 0 && !r.Auto {
				return usageError{errors.New("name the container's address with --address ADDRESS/LENGTH, or --address auto")}
			}
			ns, err := attach.Resolve(c.Context(), args[1])
			if err != nil {
				return err
			}
			defer ns.Close()
			r.Network, r.Target = args[0], args[1]
			m, err := d.client().Attach(c.Context(), ns, r)
			if err != nil {
				return err
			}
			return json.print(c, m, func(w io.Writer) error { return printMade(w, m) })
		},
	}
	d.add(c)
	c.Flags().Func("address", "an address of the container: `ADDRESS/LENGTH`, or auto for a free one of the network's range; may be repeated", func(s string) error {
		if s == "auto" {
			r.Auto = true
			return nil
		}
		p, err := parsePrefix(s)
		r.Addresses = append(r.Addresses, p)
		return err
	})
	addListed(c, &r.Gateways, parseGateway, "gateway", "`ADDRESS` of the router of a default route; one each of IPv4 and IPv6")
	c.Flags().StringVar(&r.IfName, "ifname", "", "`NAME` of the device in the container (default the first free of eth0, eth1, …)")
	addMAC(c, &r.MAC, "mac", "`MAC` of that device (default made from the first address: 02:42 and IPv4's four bytes)")
	json.add(c)
	c.ValidArgsFunction = completeArgs(completeNetworks, completeFiles)
	return c
}

// checkNames refuses a network and a target that nothing can be.
func checkNames(args []string) error {
	if args[0] == "" {
		return usageError{errors.New("the network's name is empty")}
	}
	if err := attach.CheckTarget(args[1]); err != nil {
		return usageError{err}
	}
	return nil
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
