package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
)

func newDetachCommand() *cobra.Command {
	var d daemonFlags
	var ifName string
	c := &cobra.Command{
		Use:   "detach NETWORK TARGET",
		Short: "Take a container off a network",
		Long: `Take a container off a network that ` + "`overtap attach`" + ` put it on: its device, with
addresses and routes, and the veth's other end are removed.

` + targets + `

A target that is not found is taken as the name that was given to attach, as
` + "`overtap status`" + ` shows it.`,
		Example: "  overtap detach blue web",
		Args:    exactly("NETWORK", "TARGET"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkNames(args); err != nil {
				return err
			}
			ns, unresolved := attach.Resolve(c.Context(), args[1])
			if unresolved == nil {
				defer ns.Close()
			}
			a, err := d.client().Detach(c.Context(), ns, attach.Selector{Network: args[0], Target: args[1], IfName: ifName})
			if err != nil {
				return errors.Join(unresolved, err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is detached from %s: %s is gone\n", args[1], a.Network, orDash(a.IfName))
			return err
		},
	}
	d.add(c)
	c.ValidArgsFunction = completeArgs(completeNetworks, completeFiles)
	c.Flags().StringVar(&ifName, "ifname", "", "`NAME` of the device in the container, where it is attached more than once")
	return c
}
