package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newTraceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace --live [flags] [filter...]",
		Short: "Follow real frames from point to point of the road",
		Long: `Follow real frames that match a filter, as of overtap capture, for a bounded time,
and print for each where it came from and what became of it: to whom it was sent,
or why it was dropped.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{c.CommandPath(), errors.New("want --live")}
		},
	}
	addLive(c)
	return c
}
