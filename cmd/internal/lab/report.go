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
		p.printf("  %-16s  %-24s  %s\n", row.from+" → "+row.to, answers(row.v4), answers(row.v6))
	}

	for _, c := range r.carried {
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
			p.printf("  %-16s  %s %v: %s (%v)\n", "dropped", plural(int(n.Count), "frame", "frames"), n.Direction, n.Reason.Text(), n.Reason)
		}
	}

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
	p.printf("\nThe lab's files are in %s.\n", t.dir())
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
	words := [][2]string{
		{"container", "a network namespace: devices, addresses and routes of its own"},
		{netlab.SiteBridge, "a bridge: a switch in software, which the containers are plugged into"},
		{tapDev, "a TAP: a device whose other end is a program, here overtap"},
		{"VXLAN", "Ethernet frames inside UDP packets; the VNI is the network's number"},
		{"underlay", "the network that joins the hosts; here a veth pair, a virtual cable"},
		{"MAC", "the address of an Ethernet device, as 02:42:c6:33:64:01"},
	}
	for _, w := range words {
		p.printf("%-10s %s\n", w[0], w[1])
	}
}

func answers(r netlab.PingResult) string {
	if r.Received == 0 {
		if r.Err != nil {
			return fmt.Sprintf("no answer: %v", r.Err)
		}
		return "no answer"
	}
	return fmt.Sprintf("%d of %d, %s", r.Received, r.Sent, short(r.Median()))
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

// suggestion is a command to try.
type suggestion struct {
	why     string
	args    string // of overtap
	program string // that must be installed; "" = none
	peers   []Peer // only with these; nil = any
}

// printNext prints what to try, as the user can paste it.
func (r *report) printNext(p *Printer) {
	t := r.topology
	lab := ""
	if r.several {
		lab = t.Name + " "
	}
	last := t.pings[len(t.pings)-1]
	in := func(member, command string) string { return "lab exec " + lab + member + " -- " + command }
	p.printf("\nTry next\n")
	for _, s := range []suggestion{
		{why: "ping across, from inside a container", program: "ping",
			args: in(last[0], fmt.Sprintf("ping -c 3 %s", t.container(last[1]).v4.Addr()))},
		{why: "what overtap in host a knows, and what it counted",
			args: in("a", "overtap fdb show")},
		{args: in("a", "overtap stats")},
		{why: "what the kernel in host b learned", program: "bridge", peers: []Peer{KernelPeer},
			args: in("b", "bridge fdb show dev "+netlab.SiteVXLAN)},
		{why: "see the packets on the underlay (while a ping runs elsewhere)", program: "tcpdump",
			args: in("a", "tcpdump -ni eth0 -c 8 udp")},
		{why: "how fast TCP is, container to container", args: "lab speed " + lab},
		{why: "a shell in host a", args: "lab exec " + lab + "a"},
		{why: "remove the lab", args: "lab down " + lab},
	} {
		if s.peers != nil && !slices.Contains(s.peers, r.peer) {
			continue
		}
		if _, err := exec.LookPath(s.program); err != nil && s.program != "" {
			continue
		}
		if s.why != "" {
			p.printf("  %s\n", s.why)
		}
		p.printf("    %s %s\n", p.Command, strings.TrimRight(s.args, " "))
	}
}
