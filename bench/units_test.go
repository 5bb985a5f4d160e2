package bench

import (
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
)

func TestMedian(t *testing.T) {
	f := Figure{of: func(s Sample) float64 { return s.Cost.WallSeconds }}
	for _, c := range []struct {
		in       []float64
		median   float64
		turn     int
		min, max float64
	}{
		{[]float64{7}, 7, 0, 7, 7},
		{[]float64{9, 1, 5}, 5, 2, 1, 9},
		{[]float64{4, 1, 3, 2}, 2, 3, 1, 4},
		{[]float64{5, 4, 3, 2, 1}, 3, 2, 1, 5},
	} {
		var samples []Sample
		for _, v := range c.in {
			samples = append(samples, Sample{Cost: Cost{WallSeconds: v}})
		}
		v := f.value(samples)
		if v.Median != c.median || v.Turn != c.turn || v.Min != c.min || v.Max != c.max {
			t.Errorf("%v: %+v", c.in, v)
		}
	}
}

func TestRatiosAreToTheKernel(t *testing.T) {
	tcp := func(gbit float64) []Sample { return []Sample{{TCP: &TCPSample{BitsPerSecond: gbit * 1e9}}} }
	r := LoadResult{Lanes: []LaneResult{
		{Lane: Lane{Row: Overtap}, Samples: tcp(6)},
		{Lane: Lane{Row: Kernel}, Samples: tcp(8)},
		{Lane: Lane{Row: Overtap2}},
	}}
	r.finish(loadNamed(t, "tcp1"))
	if got := r.Lanes[0].Values[0].Ratio; math.Abs(got-0.75) > 1e-9 {
		t.Errorf("ratio %v", got)
	}
	if r.Lanes[1].Values[0].Ratio != 1 || len(r.Lanes[2].Values) != 0 {
		t.Errorf("%+v", r.Lanes)
	}
}

func TestCharge(t *testing.T) {
	s := Sample{TCP: tcpSample(traffic.TCPResult{Bytes: 1.5e9}), UDP: udpSample(traffic.UDPResult{Bytes: 0.5e9})}
	s.charge(Cost{MachineSeconds: 4, DaemonSeconds: 1}, time.Second)
	if s.Cost.PerGB != 2 || s.Cost.DaemonPerGB != 0.5 || s.Cost.WallSeconds != 1 {
		t.Errorf("%+v", s.Cost)
	}
	var none Sample
	none.charge(Cost{MachineSeconds: 4}, time.Second)
	if none.Cost.PerGB != 0 {
		t.Errorf("nothing came, and it cost %v a GB", none.Cost.PerGB)
	}
}

func TestSamplesOfRunsAtOnce(t *testing.T) {
	s := tcpSample(
		traffic.TCPResult{Bytes: 100, Elapsed: time.Second, Retransmits: 1},
		traffic.TCPResult{Bytes: 300, Elapsed: 2 * time.Second, Retransmits: 2},
	)
	if s.BitsPerSecond != 800+1200 || s.Received != 400 || s.Retransmits != 3 {
		t.Errorf("%+v", s)
	}
	r := rttSample(traffic.LatencyResult{Sent: 10, Lost: 3, Median: 80, P99: 200})
	if r.HalfMedian != 40 || r.HalfP99 != 100 || r.Counts != (Counts{10, 7, 3}) {
		t.Errorf("%+v", r)
	}
}

func TestParseProc(t *testing.T) {
	if n, err := parseMachineTicks("cpu  1 2 4 1000 2000 8 16 4000 5 6\ncpu0 1 1 1 1\n"); n != 31 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	stat := "42 (a) b (c) S 1 42 42 0 -1 4194560 2 0 0 0 30 12 5 6 20 0 1 0 99 0 0\n"
	if n, err := parseProcessTicks(stat); n != 42 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := parsePeakRSS("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"); n != 2<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu a b c d e f g h", "42 (x) S 1"} {
		if _, err := parseMachineTicks(bad); err == nil {
			t.Errorf("machine: %q is taken", bad)
		}
		if _, err := parseProcessTicks(bad); err == nil {
			t.Errorf("process: %q is taken", bad)
		}
		if _, err := parsePeakRSS(bad); err == nil {
			t.Errorf("peak: %q is taken", bad)
		}
	}
}

// TestProcOfThisProcess works, and sees it in its own time and the machine's.
func TestProcOfThisProcess(t *testing.T) {
	machine, err := machineTicks()
	check(t, err)
	own, err := processTicks(os.Getpid())
	check(t, err)
	for start := time.Now(); time.Since(start) < 20*time.Second; {
		after, err := processTicks(os.Getpid())
		check(t, err)
		if after < own+5 {
			continue
		}
		all, err := machineTicks()
		check(t, err)
		if all < machine+4 {
			t.Errorf("the machine worked %d ticks, this process %d of them", all-machine, after-own)
		}
		return
	}
	t.Error("20 s of work do not show in this process's time")
}

func TestCPUModel(t *testing.T) {
	for in, want := range map[string]string{
		"processor\t: 0\nmodel name\t: Big: CPU\nmodel name\t: other\n": "Big: CPU",
		"processor\t: 0\n\nModel\t\t: Some Board\n":                     "Some Board",
		"processor\t: 0\n": "",
	} {
		if got := cpuModel(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestParseLists(t *testing.T) {
	rows, err := ParseRows("overtap, kernel,kernel")
	if err != nil || !slices.Equal(rows, []Row{Kernel, Overtap}) {
		t.Errorf("%v, %v", rows, err)
	}
	under, err := ParseUnderlays("none,notunnel")
	if err != nil || !slices.Equal(under, []netlab.Offload{netlab.NoTunnelSegmentation, netlab.NoOffloads}) {
		t.Errorf("%v, %v", under, err)
	}
	if _, err := ParseLoads("tcp1,tcp2"); err == nil || !strings.Contains(err.Error(), `"tcp2": want some of tcp1,`) {
		t.Errorf("%v", err)
	}
	if _, err := ParseRows(""); err == nil {
		t.Error("no rows are taken")
	}
	seen := map[string]bool{}
	for _, l := range Loads {
		if seen[l.Name] || l.Name == "" || l.Title == "" || len(l.Figures) == 0 || l.run == nil {
			t.Errorf("load %q", l.Name)
		}
		seen[l.Name] = true
	}
}

func TestIMIXIsSevenFourOne(t *testing.T) {
	count := map[int]int{}
	for _, s := range imixSizes {
		count[s]++
	}
	if count[64] != 7 || count[576] != 4 || count[1450] != 1 {
		t.Errorf("%v", count)
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 1234: "1234", 123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.01234: "0.0123", -5: "-5.00", 1e-9: "0.000000"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 9999: "9999", 10_000: "10.0 k", 999_000: "999 k", 1_230_000: "1.23 M"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
	if byteCount(2_500_000_000) != "2.50 GB" || byteCount(1_000_000) != "1.00 MB" {
		t.Error(byteCount(2_500_000_000), byteCount(1_000_000))
	}
}

func TestDaemonConfig(t *testing.T) {
	c := daemonConfig{
		site:  &netlab.Site{Underlay: netlab.UnderlayAddr(1, false), MTU: 1450},
		peers: []string{"192.0.2.2", "192.0.2.129"}, maxEntries: 5,
	}
	const want = `[underlay]
address = "192.0.2.1"
device = "eth0"
[control]
socket = "/x/sock"
metrics = ""
[[vxlan]]
name = "bench"
vni = 100
port = 4789
tap = "ot0"
mtu = 1450
bridge = "br0"
max_entries = 5
[[vxlan.peer]]
address = "192.0.2.2"
[[vxlan.peer]]
address = "192.0.2.129"
`
	if got := c.toml("/x/sock"); got != want {
		t.Errorf("%s", got)
	}
}
