package lab

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"overtap/bench/netlab"
	"overtap/dataplane"
)

// pageWidth is how many columns a line may have.
const pageWidth = 80

// print shows the lab, what was proved of it, and what both ends know.
func (r *report) print(p *Printer) {
	t := r.topology
	d := drawing{hosts: r.hosts, underlay: fmt.Sprintf("underlay: veth pair, MTU %d", underlayMTU)}
	for _, line := range d.lines() {
		p.printf("%s\n", line)
	}
	r.printWords(p)

	p.printf("\nPing                IPv4                      IPv6\n")
	for _, row := range r.pings {
		p.printf("  %-16s  %-24s  %s\n", row.way(), row.answers(0), row.answers(1))
	}
	p.printf("\nTCP, sums compared  IPv4                      IPv6\n")
	for _, row := range r.pings {
		p.printf("  %-16s  %-24s  %s\n", row.way(), row.streamed(0), row.streamed(1))
	}

	for _, h := range r.routes {
		if len(h.routes) > 0 {
			p.printf("\nRoutes that overtap keeps in host %s\n", h.host)
		}
		for _, line := range h.routes {
			p.printf("  %s\n", line)
		}
	}

	for _, c := range r.carried {
		if len(c.Networks) == 0 {
			continue // it carries nothing itself
		}
		p.printf("\nWhat travelled, as overtap in host %s counted it\n", c.host)
		for _, n := range c.Networks {
			p.printf("  %-16s  %s\n", "network "+n.Network, carriedText(n.Traffic))
		}
		for _, n := range c.Peers {
			p.printf("  %-16s  %s\n", "peer "+n.Peer.String(), carriedText(n.Traffic))
		}
		if len(c.Drops) == 0 {
			p.printf("  %-16s  nothing\n", "dropped")
		}
		for _, n := range c.Drops {
			what := fmt.Sprintf("  %-16s  %s %v: ", "dropped", plural(int(n.Count), "frame", "frames"), n.Direction)
			why := fmt.Sprintf("%s (%v)", n.Reason.Text(), n.Reason)
			if len(what)+len(why) > pageWidth {
				why = fmt.Sprintf("%v,\n%20s%s", n.Reason, "", n.Reason.Text())
			}
			p.printf("%s%s\n", what, why)
		}
	}

	if len(r.hosts) > 1 && r.topology.hosts[0].kind == "TAP" {
		r.printLearned(p)
	}
	r.printAttached(p)
	for _, c := range r.configs {
		p.printf("\nThe configuration of overtap in host %s, %s\n\n", c.host, c.path)
		for line := range strings.Lines(c.text) {
			p.printf("%s\n", strings.TrimRight("    "+line, " \n"))
		}
	}
	p.printf("\nThe lab's files are in %s.\n", t.dir())
}

// printAttached shows the commands that attached containers.
func (r *report) printAttached(p *Printer) {
	title := "\nHow the containers were attached\n"
	for _, c := range r.topology.containers {
		if c.join != attached {
			continue
		}
		words := attachWords(c, r.topology.namespace(c.name))
		p.printf("%s  in host %s: overtap %s \\\n      %s\n", title, c.host,
			strings.Join(words[:attachFixed], " "), strings.Join(words[attachFixed:], " "))
		title = ""
	}
}

// printLearned says what both ends know.
func (r *report) printLearned(p *Printer) {
	p.printf("\nWhat each end learned: the MACs behind the other host\n")
	for _, k := range r.learned {
		who := fmt.Sprintf("host %s, %s", k.host, k.by)
		if len(k.entries) == 0 {
			p.printf("  %-19s nothing yet\n", who)
		}
		// The containers first: what hosts say on their own account is by the way.
		slices.SortStableFunc(k.entries, func(a, b binding) int {
			return r.rank(a) - r.rank(b)
		})
		for _, e := range k.entries {
			owner := r.owners[e.mac]
			if owner == "" {
				owner = "unknown"
			}
			p.printf("  %-19s %s (%s) is behind %s\n", who, e.mac, owner, e.peer)
		}
	}
}

func (r *report) rank(b binding) int {
	if r.topology.container(r.owners[b.mac]).name != "" {
		return 0
	}
	return 1
}

// printWords explains what the picture names.
func (r *report) printWords(p *Printer) {
	p.printf("\n")
	words := append([][2]string{
		{"container", "a network namespace: devices, addresses and routes of its own"},
		{netlab.SiteBridge, "a bridge: a switch in software, which the containers are plugged into"},
	}, r.topology.words...)
	if len(r.hosts) > 1 {
		words = append(words, [2]string{"underlay", "the network that joins the hosts; here a veth pair, a virtual cable"})
	}
	words = append(words, [2]string{"MAC", "the address of an Ethernet device, as 02:42:c6:33:64:01"})
	for _, w := range words {
		p.printf("%-10s %s\n", w[0], w[1])
	}
}

// way names the row.
func (r pingRow) way() string { return r.from + " → " + r.to }

// answers says what came of the pings over IPv4 (0) or IPv6 (1).
func (r pingRow) answers(family int) string {
	p := []netlab.PingResult{r.v4, r.v6}[family]
	switch {
	case !r.dst[family].IsValid():
		return "-"
	case p.Received > 0:
		return fmt.Sprintf("%d of %d, %s", p.Received, p.Sent, short(p.Median()))
	case p.Err != nil:
		return fmt.Sprintf("no answer: %v", p.Err)
	}
	return "no answer"
}

// streamed says what came of the stream over IPv4 (0) or IPv6 (1).
func (r pingRow) streamed(family int) string {
	switch s := r.tcp[family]; {
	case !r.dst[family].IsValid():
		return "-"
	case s.err != nil:
		return "failed"
	case s.Bytes == 0:
		return "not tried"
	default:
		return fmt.Sprintf("%s whole, %s", bytesText(uint64(s.Bytes)), short(s.Elapsed))
	}
}

// short prints a duration with three digits or so.
func short(d time.Duration) string {
	if d < time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func carriedText(t dataplane.Traffic) string {
	return fmt.Sprintf("sent %s, %s; received %s, %s",
		plural(int(t.TxPackets), "frame", "frames"), bytesText(t.TxBytes),
		plural(int(t.RxPackets), "frame", "frames"), bytesText(t.RxBytes))
}

// bytesText prints a size in units of 1000.
func bytesText(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1000, 0
	for ; v >= 1000 && unit < 4; unit++ {
		v /= 1000
	}
	return fmt.Sprintf("%.1f %cB", v, "kMGTP"[unit])
}

// suggestion is a command to try: one inside a member, or a verb of lab.
type suggestion struct {
	why     string
	member  string // that the command runs in; "" = none
	command string // inside
	verb    string // of lab, without a member
	program string // that must be installed; "" = none
	peers   []Peer // only with these; nil = any
}

// words are those behind `overtap`; lab names the one that is meant where there
// are several.
func (s suggestion) words(lab string) string {
	words := []string{"lab", s.verb, lab}
	switch {
	case s.member != "" && s.command != "":
		words = []string{"lab", "exec", lab, s.member, "--", s.command}
	case s.member != "":
		words = []string{"lab", "exec", lab, s.member}
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

// printNext prints what to try, as the user can paste it.
func (r *report) printNext(p *Printer) {
	t := r.topology
	lab := ""
	if r.several {
		lab = t.Name
	}
	last := t.pings[len(t.pings)-1]
	all := []suggestion{{why: "ping across, from inside a container", program: "ping",
		member: last[0], command: fmt.Sprintf("ping -c 3 %s", t.container(last[1]).v4.Addr())}}
	all = append(all, t.tries...)
	all = append(all,
		suggestion{why: "how fast TCP is, container to container", verb: "speed"},
		suggestion{why: "watch networks, peers and drops", member: "a", command: "overtap top"},
		suggestion{why: "follow frames (or see each with `capture`)", member: "a", command: "overtap trace --live"},
		suggestion{why: "a shell in host a", member: "a"},
		suggestion{why: "remove the lab", verb: "down"})
	p.printf("\nTry next\n")
	for _, s := range all {
		if s.peers != nil && !slices.Contains(s.peers, r.peer) {
			continue
		}
		if _, err := exec.LookPath(s.program); err != nil && s.program != "" {
			continue
		}
		if s.why != "" {
			p.printf("  %s\n", s.why)
		}
		p.printf("    %s %s\n", p.Command, s.words(lab))
	}
}
