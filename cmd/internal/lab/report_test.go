package lab

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/encap"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares out with a file of testdata.
func golden(t *testing.T, file, out string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if out != string(want) {
		t.Errorf("%s is otherwise:\n%s", path, out)
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// subnets is a lab as report finds it, but for what differs each time.
func subnets() *report {
	topology, err := Find("vxlan-subnets")
	if err != nil {
		panic(err)
	}
	r := &report{topology: topology, peer: KernelPeer, owners: map[encap.MAC]string{0x02aabbccddee: "br0 of host b"}}
	for _, name := range hostNames {
		h := hostView{name: name, bridge: deviceView{name: "br0", lines: []string{"bridge"}}}
		for _, c := range topology.containers {
			r.owners[c.mac()] = c.name
			if c.host == name {
				h.containers = append(h.containers, deviceView{
					name: "eth0", owner: c.name, lines: []string{c.v4.String(), c.v6.String(), c.mac().String()},
				})
			}
		}
		h.tunnel = []deviceView{
			{name: "vx-blue", lines: []string{"TAP, MTU 1450", "02:00:00:00:00:0a"}},
			{name: "overtap", lines: []string{"VXLAN, VNI 100", "UDP port 4789"}},
		}
		if name == "b" {
			h.tunnel = []deviceView{{name: "vx0", lines: []string{
				"the kernel's VXLAN device", "02:00:00:00:00:0b", "MTU 1450", "VNI 100, UDP port 4789"}}}
		}
		h.underlay = deviceView{name: "eth0", lines: []string{underlay(name).String() + "/24", "02:00:00:00:01:0" + name}}
		r.hosts = append(r.hosts, h)
	}
	echo := func(n int, rtt time.Duration) netlab.PingResult {
		p := netlab.PingResult{Sent: 3, Received: n}
		for range n {
			p.RTTs = append(p.RTTs, rtt)
		}
		return p
	}
	r.pings = []pingRow{
		{from: "a1", to: "b1", v4: echo(3, 98*time.Microsecond), v6: echo(2, 1234567*time.Nanosecond),
			tcp: [2]streamResult{{TCPResult: traffic.TCPResult{Bytes: 1 << 20, Elapsed: 1500 * time.Microsecond}}, {err: traffic.ErrCorrupt}}},
		{from: "b1", to: "a2", v4: echo(3, 1500*time.Millisecond), v6: netlab.PingResult{Sent: 3, Err: errors.New("no route to host")}},
	}
	for i, row := range r.pings {
		for j, a := range topology.container(row.to).addrs() {
			r.pings[i].dst[j] = a.Addr()
		}
	}
	r.configs = []configFile{{"a", "/run/overtap/lab/vxlan-subnets/a.toml", "[underlay]\naddress = \"192.0.2.1\"\n\n[[vxlan]]\n"}}
	r.routes = []hostRoutes{{"a", []string{"203.0.113.0/24 via 192.0.2.2 dev eth0"}}, {"b", nil}}
	tr := dataplane.Traffic{TxPackets: 14, TxBytes: 999, RxPackets: 1, RxBytes: 12_345_678}
	peer := netip.MustParseAddr("192.0.2.2")
	r.carried = []carried{{"a", dataplane.Stats{
		Networks: []dataplane.NetworkStats{{Network: "blue", VNI: 100, Traffic: tr}},
		Peers:    []dataplane.PeerStats{{Network: "blue", Peer: peer, Traffic: tr}},
		Drops:    []dataplane.DropStats{{Network: "blue", Reason: dataplane.DropTooShort, Count: 2}},
	}}}
	r.learned = []learned{
		{"a", "overtap", []binding{{0x02aabbccddee, peer}, {topology.container("b2").mac(), peer}, {1, peer}}},
		{"b", "the kernel", nil},
	}
	return r
}

func TestReport(t *testing.T) {
	for file, p := range map[string]*Printer{"report.golden": {}, "report-ascii.golden": {ASCII: true}} {
		var b bytes.Buffer
		p.W = &b
		subnets().print(p)
		golden(t, file, b.String())
		if p.ASCII && strings.ContainsFunc(b.String(), func(r rune) bool { return r > 0x7e }) {
			t.Error("not all of it is ASCII")
		}
	}
}

func TestFails(t *testing.T) {
	r := subnets()
	if s := r.fails(); s != "the TCP stream from a1 to b1 (2001:db8:1::2) failed: what arrived is not what was sent" {
		t.Error(s)
	}
	r.pings[0].tcp[1].err = nil
	if s := r.fails(); s != "nothing answers the ping from b1 to a2 (2001:db8:2::1)" {
		t.Error(s)
	}
	r.pings[1].dst[1] = netip.Addr{} // it has none
	if s := r.fails(); s != "" {
		t.Error(s)
	}
}

// Hosts of different height still make one picture.
func TestDrawUneven(t *testing.T) {
	r := subnets()
	r.hosts[1].containers = r.hosts[1].containers[:1]
	r.hosts[0].tunnel = r.hosts[0].tunnel[:1]
	lines := drawing{r.hosts, "underlay"}.lines()
	golden(t, "uneven.golden", strings.Join(lines, "\n")+"\n")
	for _, l := range lines[:len(lines)-1] {
		if n := utf8.RuneCountInString(l); n != 2*boxWidth+boxGap {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

// The commands name the lab where there are several, and the peer's own only
// with that peer.
func TestNext(t *testing.T) {
	next := func(change func(*report)) string {
		r := subnets()
		change(r)
		var b bytes.Buffer
		r.printNext(&Printer{W: &b, Command: "sudo go run ./cmd/overtap"})
		for line := range strings.Lines(b.String()) {
			if len(line) > 81 && !r.several {
				t.Errorf("too long: %s", line)
			}
		}
		return b.String()
	}
	wants(t, next(func(*report) {}), "\n    sudo go run ./cmd/overtap lab exec a -- overtap fdb show\n", " lab exec a -- overtap top\n", " lab exec a -- overtap trace --live\n", "\n    sudo go run ./cmd/overtap lab down\n")
	wants(t, next(func(r *report) { r.several = true }), " lab exec vxlan-subnets a -- overtap stats\n", " lab down vxlan-subnets\n")
	if out := next(func(r *report) { r.peer = OvertapPeer }); strings.Contains(out, "bridge fdb") {
		t.Error(out)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_550_000: "1.6 MB", 1 << 63: "9223.4 PB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %s; want %s", n, got, want)
		}
	}
}
