package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/printable"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

func newStatusCommand() *cobra.Command {
	var when colorFlag
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon runs, what this host granted it, and what is wrong",
		Long: `Show what the daemon runs, what this host granted it, and what is wrong or may go
wrong: networks and their devices, offloads, workers, the underlay, the peers whose
path takes less than the underlay's MTU or that do not answer, attached containers.
STATE of a network is "up", "lost" (its device was deleted and is made again), or
"problem": it carries nothing, or something of it is missing on this host; the lines
below the first name it.

The exit code is 0 when the daemon is ready, 3 when it is not, with the reasons
below the first line, and 1 when no daemon answers.`,
		Example: `  overtap status --watch
  overtap status --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) (control.Status, error) {
		s, err := daemon.Status(c.Context())
		if err == nil && !s.Ready {
			err = errNotReady
		}
		return s, err
	}, func(c *cobra.Command, s control.Status) error {
		w, p := c.OutOrStdout(), when.palette(c.OutOrStdout())
		if p {
			w = printable.Raw(w) // painted text is printable
		}
		return printStatus(w, s, p)
	})
	addColor(c, &when)
	return c
}

// Uplink says how GSO packets leave.
func uplink(u netio.UplinkInfo) string {
	if u.Active {
		how := u.Device + ": GSO packets leave unsegmented"
		if u.IPIPReason != "" {
			how += ", but those of IP-in-IP: " + u.IPIPReason
		}
		return how
	}
	return "not used, GSO packets leave as segments: " + u.Reason
}

// printStatus prints a line a fact, the warnings, and one table a subject.
func printStatus(w io.Writer, s control.Status, p palette) error {
	printFacts(w, s, p)
	_, err := printTables(w, true, p, networkTable(s.Networks), pathTable(s.Peers, s.Underlay.MTU), attachmentTable(s.Attachments))
	return err
}

// printFacts prints the facts that are not rows of a table.
func printFacts(w io.Writer, s control.Status, p palette) {
	fact := func(c color, name, text string) {
		fmt.Fprintf(w, "%-10s%s\n", name, p.paint(c, text))
	}
	state := p.paint(green, "ready")
	if !s.Ready {
		state = p.paint(red, "not ready")
	}
	fmt.Fprintf(w, "overtap %s, pid %d: %s, up %v\n", p.paint(0, s.Version), s.PID, state, time.Duration(s.Uptime)*time.Second)
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
	mtu := ""
	if s.Underlay.MTU > 0 {
		mtu = fmt.Sprintf(", MTU %d", s.Underlay.MTU)
	}
	fact(0, "underlay", s.Underlay.Address.String()+on+mtu)
	// A daemon that waits for the underlay has no engine yet.
	if s.Workers > 0 {
		fact(0, "workers", strconv.Itoa(s.Workers))
	}
	if len(s.SourcePorts) > 0 {
		fact(0, "source", plural(len(s.SourcePorts), "UDP port", "UDP ports"))
	}
	uplinkColor := color(0)
	if !s.Uplink.Active {
		uplinkColor = yellow
	}
	if s.Uplink.Active || s.Uplink.Reason != "" {
		fact(uplinkColor, "uplink", uplink(s.Uplink))
	}
	printOffloads(fact, s.Offloads)
	if s.ChecksumErrors > 0 {
		why := "a wrong UDP checksum"
		if s.Underlay.Address.Is6() {
			why += ", or zero where that is not taken (udp6zerocsumrx)"
		}
		fact(0, "checksums", fmt.Sprintf("%s to this host refused so far for %s", plural(int(s.ChecksumErrors), "datagram", "datagrams"), why))
	}
	if len(s.Peers) > 0 {
		fact(0, "peers", peerSummary(s.Peers, s.Underlay.MTU))
	}
	for _, warning := range s.Warnings {
		fact(yellow, "warning", warning)
	}
}

// printOffloads prints those that are on in one line, and one more for each of the
// others: why, and until when.
func printOffloads(fact func(c color, name, text string), all []dataplane.OffloadInfo) {
	name := "offloads"
	line := func(c color, text string) {
		fact(c, name, text)
		name = ""
	}
	var on []string
	for _, o := range all {
		if o.State == dataplane.OffloadOn {
			on = append(on, o.Name)
		}
	}
	if len(on) > 0 {
		line(0, strings.Join(on, ", ")+": on")
	}
	for _, o := range all {
		switch o.State {
		case dataplane.OffloadOff:
			line(0, fmt.Sprintf("%s: off, %s", o.Name, o.Reason))
		case dataplane.OffloadUnsupported:
			line(yellow, fmt.Sprintf("%s: not supported, %s", o.Name, o.Reason))
		case dataplane.OffloadSuspended:
			line(yellow, fmt.Sprintf("%s: given up until %s, %s", o.Name, o.Until.Local().Format(time.DateTime), o.Reason))
		}
	}
}

func networkTable(all []control.NetworkStatus) *table {
	t := &table{header: []string{"NETWORK", "KIND", "VNI", "PORT", "DEVICE", "STATE", "MAC", "MTU", "BRIDGE", "ADDRESSES", "ENTRIES", "QUEUES", "OFFLOADS"}}
	for _, n := range all {
		state := painted{green, "up"}
		switch {
		case n.Lost:
			state = painted{red, "lost"}
		case n.Problem:
			state = painted{red, "problem"}
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

// unwell reports whether the peer stopped answering, or was never heard.
func unwell(p control.PeerStatus) bool {
	return p.State == dataplane.PeerLost || p.State == dataplane.PeerNever
}

// peerSummary counts the peers of all networks.
func peerSummary(all []control.PeerStatus, underlay encap.UnderlayMTU) string {
	narrower, states := 0, make(map[dataplane.PeerState]int)
	for _, p := range all {
		if narrow(p, underlay) {
			narrower++
		}
		states[p.State]++
	}
	text := strconv.Itoa(len(all))
	for _, s := range dataplane.PeerStates {
		if n := states[s]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, stateWord(s))
		}
	}
	if narrower > 0 {
		text += fmt.Sprintf(", %d with a path MTU below the underlay's", narrower)
	}
	return text
}

// stateWord is the state in a sentence.
func stateWord(s dataplane.PeerState) string {
	switch s {
	case dataplane.PeerNever:
		return "never heard"
	case dataplane.PeerNew:
		return "not heard yet"
	}
	return string(s)
}

// pathTable shows the peers that are unwell, or whose path takes less than the
// underlay.
func pathTable(all []control.PeerStatus, underlay encap.UnderlayMTU) *table {
	t := &table{header: []string{"PATH TO", "NETWORK", "PMTU", "LAST HEARD", "ALIVE", "RTT", "VERIFIED"}}
	for _, p := range all {
		if !narrow(p, underlay) && !unwell(p) {
			continue
		}
		pmtu := painted{}
		if p.PathMTU != 0 {
			pmtu = painted{yellow, strconv.Itoa(int(p.PathMTU))}
		}
		t.add(p.Peer, p.Network, pmtu, lastHeard(p.LastHeard), alive(p.State, p.Probe), roundTrip(p.Probe), verified(p.Probe))
	}
	return t
}

// ofVXLAN is a cell that stays empty in the row of a tunnel.
func ofVXLAN(k dataplane.Kind, cell any) any {
	if k == dataplane.KindIPIP {
		return ""
	}
	return cell
}

func attachmentTable(all []attach.Attachment) *table {
	t := &table{header: []string{"ATTACHED", "NETWORK", "IFNAME", "ADDRESSES", "MAC", "MTU", "VETH", "BRIDGE"}}
	for _, a := range all {
		addresses := joined(a.Addresses, ",")
		if a.MoreAddresses > 0 {
			addresses += fmt.Sprintf(" and %d more", a.MoreAddresses)
		}
		t.add(a.Target, a.Network, a.IfName, addresses, a.MAC, a.MTU, a.Veth, a.Bridge)
	}
	return t
}
