package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

func newStatusCommand() *cobra.Command {
	var d daemonFlags
	var json bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon runs and what this host granted it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := d.client().Status(c.Context())
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	d.add(c)
	addJSON(c, &json)
	addWatch(c)
	return c
}

// uplink says which way superframes leave.
func uplink(u dataplane.UplinkInfo) string {
	if u.Active {
		how := u.Device + ": superframes leave uncut"
		if u.IPIPReason != "" {
			how += ", but those of IP-in-IP: " + u.IPIPReason
		}
		return how
	}
	return "not used, superframes leave cut: " + u.Reason
}

func printStatus(w io.Writer, s control.Status) error {
	state := "ready"
	if !s.Ready {
		state = "not ready"
	}
	fmt.Fprintf(w, "overtap %s, pid %d: %s, up %v\n", s.Version, s.PID, state, time.Duration(s.Uptime)*time.Second)
	for _, p := range s.Problems {
		fmt.Fprintf(w, "          %s\n", strings.ReplaceAll(p, "\n", "\n          "))
	}
	fmt.Fprintf(w, "config    %s\n", s.Config)
	on := ""
	if s.Underlay.Device != "" {
		on = " on " + s.Underlay.Device
	}
	fmt.Fprintf(w, "underlay  %s%s, MTU %d\n", s.Underlay.Address, on, s.Underlay.MTU)
	fmt.Fprintf(w, "workers   %d\n", s.Workers)
	if len(s.SourcePorts) > 0 {
		fmt.Fprintf(w, "source    %s\n", plural(len(s.SourcePorts), "UDP port", "UDP ports"))
	}
	if s.SegmentationRefused {
		fmt.Fprintln(w, "segments  refused by the route to some peer: every datagram is sent alone there")
	}
	fmt.Fprintf(w, "uplink    %s\n", uplink(s.Uplink))
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "warning   %s\n", warning)
	}
	if len(s.Networks) == 0 {
		return printAttachments(w, s.Attachments)
	}
	fmt.Fprintln(w)
	t := table{header: []string{"NETWORK", "KIND", "VNI", "PORT", "DEVICE", "STATE", "MAC", "MTU", "BRIDGE", "ADDRESSES", "ENTRIES", "QUEUES", "OFFLOADS"}}
	for _, n := range s.Networks {
		state := "up"
		if n.Lost {
			state = "lost"
		}
		t.add(n.Network, n.Kind, ofVXLAN(n.Kind, n.VNI), ofVXLAN(n.Kind, n.Port), n.Device, state, ofVXLAN(n.Kind, n.MAC), n.MTU, n.Bridge, joined(n.Addresses, ","),
			n.Entries, n.Queues, strings.Join(n.Offloads, ","))
	}
	if err := t.print(w); err != nil {
		return err
	}
	return printAttachments(w, s.Attachments)
}

// ofVXLAN is a cell that means nothing in the row of a tunnel.
func ofVXLAN(k dataplane.Kind, cell any) any {
	if k == dataplane.KindIPIP {
		return ""
	}
	return cell
}

func printAttachments(w io.Writer, all []attach.Attachment) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{header: []string{"ATTACHED", "NETWORK", "IFNAME", "ADDRESSES", "MAC", "MTU", "VETH", "BRIDGE"}}
	for _, a := range all {
		t.add(a.Target, a.Network, a.IfName, joined(a.Addresses, ","), a.MAC, a.MTU, a.Veth, a.Bridge)
	}
	return t.print(w)
}
