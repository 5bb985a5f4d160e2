package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

func newStatusCommand() *cobra.Command {
	var d daemonFlags
	var json bool
	var when colorFlag
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon runs, what this host granted it, and what is wrong",
		Long: `Show what the daemon runs, what this host granted it, and what is wrong or may go
wrong: networks and their devices, offloads, workers, the underlay, the peers whose
path takes less than the underlay's MTU or that do not answer, attached containers.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := d.client().Status(c.Context())
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s, when.palette(c.OutOrStdout()))
		},
	}
	d.add(c)
	addJSON(c, &json)
	addColor(c, &when)
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

// printStatus prints a line a fact, the warnings, and one table a subject.
func printStatus(w io.Writer, s control.Status, p palette) error {
	printFacts(w, s, p)
	for _, t := range []*table{networkTable(s.Networks), pathTable(s.Peers, s.Underlay.MTU), attachmentTable(s.Attachments)} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		t.palette = p
		if err := t.print(w); err != nil {
			return err
		}
	}
	return nil
}

// printFacts prints what there is one of.
func printFacts(w io.Writer, s control.Status, p palette) {
	fact := func(c color, name, text string) {
		fmt.Fprintf(w, "%-10s%s\n", name, p.paint(c, text))
	}
	state := p.paint(green, "ready")
	if !s.Ready {
		state = p.paint(red, "not ready")
	}
	fmt.Fprintf(w, "overtap %s, pid %d: %s, up %v\n", s.Version, s.PID, state, time.Duration(s.Uptime)*time.Second)
	for _, problem := range s.Problems {
		for line := range strings.SplitSeq(problem, "\n") {
			fact(red, "", line)
		}
	}
	fact(0, "config", s.Config)
	on := ""
	if s.Underlay.Device != "" {
		on = " on " + s.Underlay.Device
	}
	fact(0, "underlay", fmt.Sprintf("%s%s, MTU %d", s.Underlay.Address, on, s.Underlay.MTU))
	fact(0, "workers", strconv.Itoa(s.Workers))
	if len(s.SourcePorts) > 0 {
		fact(0, "source", plural(len(s.SourcePorts), "UDP port", "UDP ports"))
	}
	uplinkColor := color(0)
	if !s.Uplink.Active {
		uplinkColor = yellow
	}
	fact(uplinkColor, "uplink", uplink(s.Uplink))
	if len(s.Peers) > 0 {
		fact(0, "peers", peerSummary(s.Peers, s.Underlay.MTU))
	}
	for _, warning := range s.Warnings {
		fact(yellow, "warning", warning)
	}
}

func networkTable(all []control.NetworkStatus) *table {
	t := &table{header: []string{"NETWORK", "KIND", "VNI", "PORT", "DEVICE", "STATE", "MAC", "MTU", "BRIDGE", "ADDRESSES", "ENTRIES", "QUEUES", "OFFLOADS"}}
	for _, n := range all {
		state := painted{green, "up"}
		if n.Lost {
			state = painted{red, "lost"}
		}
		t.add(n.Network, n.Kind, ofVXLAN(n.Kind, n.VNI), ofVXLAN(n.Kind, n.Port), n.Device, state, ofVXLAN(n.Kind, n.MAC), n.MTU, n.Bridge, joined(n.Addresses, ","),
			n.Entries, n.Queues, strings.Join(n.Offloads, ","))
	}
	return t
}

// narrow reports whether the path to the peer takes less than the underlay.
func narrow(p control.PeerStatus, underlay encap.UnderlayMTU) bool {
	return p.PathMTU != 0 && p.PathMTU < underlay || p.Probe != nil && p.IsNarrow()
}

// silent reports whether the peer is asked and does not answer.
func silent(p control.PeerStatus) bool {
	return p.Probe != nil && !p.Alive && !p.UnansweredSince.IsZero()
}

// peerSummary counts the peers of all networks.
func peerSummary(all []control.PeerStatus, underlay encap.UnderlayMTU) string {
	narrower, probed, answering := 0, 0, 0
	for _, p := range all {
		if narrow(p, underlay) {
			narrower++
		}
		if p.Probe != nil {
			probed++
			if p.Alive {
				answering++
			}
		}
	}
	text := strconv.Itoa(len(all))
	if probed > 0 {
		text += fmt.Sprintf(", %d of %d probed are alive", answering, probed)
	}
	if narrower > 0 {
		text += fmt.Sprintf(", %d with a path MTU below the underlay's", narrower)
	}
	return text
}

// pathTable shows the peers whose path is not as the underlay promises.
func pathTable(all []control.PeerStatus, underlay encap.UnderlayMTU) *table {
	t := &table{header: []string{"PATH TO", "NETWORK", "PMTU"}}
	probed := slices.ContainsFunc(all, func(p control.PeerStatus) bool { return p.Probe != nil })
	if probed {
		t.header = append(t.header, "ALIVE", "RTT", "VERIFIED")
	}
	for _, p := range all {
		if !narrow(p, underlay) && !silent(p) {
			continue
		}
		row := []any{p.Peer, p.Network, painted{}}
		if p.PathMTU != 0 {
			row[2] = painted{yellow, strconv.Itoa(int(p.PathMTU))}
		}
		if probed {
			row = append(row, alive(p.Probe), roundTrip(p.Probe), verified(p.Probe))
		}
		t.add(row...)
	}
	return t
}

// ofVXLAN is a cell that means nothing in the row of a tunnel.
func ofVXLAN(k dataplane.Kind, cell any) any {
	if k == dataplane.KindIPIP {
		return ""
	}
	return cell
}

func attachmentTable(all []attach.Attachment) *table {
	t := &table{header: []string{"ATTACHED", "NETWORK", "IFNAME", "ADDRESSES", "MAC", "MTU", "VETH", "BRIDGE"}}
	for _, a := range all {
		t.add(a.Target, a.Network, a.IfName, joined(a.Addresses, ","), a.MAC, a.MTU, a.Veth, a.Bridge)
	}
	return t
}
