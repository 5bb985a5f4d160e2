package interop

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
)

// fault is a row of docs/faults.md: something goes wrong on a host, on the
// underlay or at a host that sends there, while an honest flow goes on.
type fault struct {
	name   string
	build  func(t *testing.T, f *fault) *scene
	lines  []string       // of the network's table
	strike func(s *scene) // begins, lasts and ends the fault
	loss   float64        // the share of the honest flow that it may cost meanwhile
	quiet  bool           // nothing is dropped but what is expected
	v6     bool           // the tunnel runs over IPv6
	sites  int            // 0 = three, the third of which is no peer
}

// faults are all of them, in the order of the document.
func faults() []fault {
	return slices.Concat(wireFaults, peerFaults, hostFaults)
}

// scene is the place of a fault: an honest flow from the container of a, where
// the daemon is that the fault is for, to that of b, which ends the tunnel by the
// kernel or by overtap.
type scene struct {
	t       *testing.T
	f       *fault
	a, b, c *netlab.Site
	d       *daemon
	conf    config // d's
	file    string // with it, and the control socket, where a fault is of these
	socket  string
	far     *daemon // b's, where it has one
	farConf config
	line    *line // the underlay, where it is one
	probe   *traffic.Probe
	before  dataplane.Stats
	expect  []expected
}

// expected is a drop that a fault is to be counted as.
type expected struct {
	network     string
	direction   dataplane.Direction
	reason      dataplane.Drop
	least, most uint64
}

// long reports whether faults have their full size: ten seconds, a million.
func long() bool { return os.Getenv("OVERTAP_LONG") == "1" }

// sized is the size of a fault by default, and its full size.
func sized[T any](short, full T) T {
	if long() {
		return full
	}
	return short
}

// lasting is how long a fault lasts, and the time before and after it.
func lasting() time.Duration { return sized(300*time.Millisecond, 3*time.Second) }

// probeEvery is the tick of the honest flow: 200 a second.
const probeEvery = 5 * time.Millisecond

// TestFaults strikes with each fault and wants it counted under its name, the
// daemon alive, the honest flow to lose no more than that fault may cost, and
// nothing any more once it is over.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			s := f.build(t, &f)
			s.run()
		})
	}
}

func (s *scene) run() {
	t := s.t
	reaches(t, s.a.Container, s.b.IPv4)
	reaches(t, s.b.Container, s.a.IPv4)
	s.probe = must[*traffic.Probe](t)(traffic.StartProbe(
		traffic.End{Host: s.a.Container, Addr: s.a.IPv4}, traffic.End{Host: s.b.Container, Addr: s.b.IPv4}, probeEvery))
	stopped := false
	defer func() {
		if !stopped {
			s.probe.Stop()
		}
	}()
	s.recover()
	s.probe.Mark()
	time.Sleep(lasting())
	s.probe.Mark()
	s.recover() // what was sent before is not on its way any more
	s.before = s.d.stats()
	s.f.strike(s)
	healed := s.recover()
	s.probe.Mark()
	time.Sleep(lasting())
	r := s.probe.Stop()
	stopped = true
	s.judge(r[1], r[2], r[3], healed)
}

// recover waits until the honest flow goes on.
func (s *scene) recover() time.Duration {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	took, err := s.probe.Recover(ctx)
	if err != nil {
		s.t.Fatalf("the honest flow does not go on: %v; dropped: %+v", err, s.d.dropped())
	}
	return took
}

func (s *scene) judge(before, during, after traffic.ProbeResult, healed time.Duration) {
	t := s.t
	t.Logf("| %s | %s | %s | %s | %v |", s.f.name, cell(before), cell(during), cell(after), healed.Round(time.Millisecond))
	if before.Lost > 0 || after.Lost > 0 {
		t.Errorf("the honest flow lost something\nbefore: %v\nafter: %v", before, after)
	}
	if during.Loss() > s.f.loss {
		t.Errorf("the honest flow lost more than %.0f %% meanwhile: %v", 100*s.f.loss, during)
	}
	for _, e := range s.expect {
		eventually(t, "the drops are counted", func() error { return s.counted(e) })
	}
	if s.f.quiet {
		s.nothingElse()
	}
	select {
	case <-s.d.ended:
		t.Errorf("the daemon ended: %v", s.d.err)
	default:
	}
	if st := s.d.status(); !st.Ready {
		t.Errorf("the daemon is not ready: %s", s.d.verb("status"))
	}
}

// cell is what the document shows of a phase.
func cell(r traffic.ProbeResult) string {
	round := func(d time.Duration) time.Duration {
		if d < 10*time.Millisecond {
			return d.Round(10 * time.Microsecond)
		}
		return d.Round(time.Millisecond)
	}
	return fmt.Sprintf("%.2f %%, %v", 100*r.Loss(), round(r.P99))
}

// expects says that the fault is to be counted so often, no more and no less.
func (s *scene) expects(network string, d dataplane.Direction, r dataplane.Drop, n int) {
	s.expect = append(s.expect, expected{network, d, r, uint64(n), uint64(n)})
}

// expectsSome says that it is to be counted at least so often.
func (s *scene) expectsSome(network string, d dataplane.Direction, r dataplane.Drop, n int) {
	s.expect = append(s.expect, expected{network, d, r, uint64(n), 1 << 62})
}

// counted is nil when the drop was counted as often as expected since the strike.
// What found the sockets' queues full never came to the daemon.
func (s *scene) counted(e expected) error {
	now := s.d.stats()
	n := dropsOf(now, e) - dropsOf(s.before, e)
	queue := socketDrops(now) - socketDrops(s.before)
	if n+queue < e.least || n > e.most {
		return fmt.Errorf("%d of %v %v in network %q, want %d to %d; %d were dropped before the daemon; in all: %+v",
			n, e.direction, e.reason, e.network, e.least, e.most, queue, s.d.dropped())
	}
	return nil
}

// nothingElse wants no drops but those expected.
func (s *scene) nothingElse() {
	for _, drop := range s.d.stats().Drops {
		e := expected{network: drop.Network, direction: drop.Direction, reason: drop.Reason}
		isIt := func(x expected) bool {
			return x.network == e.network && x.direction == e.direction && x.reason == e.reason
		}
		if drop.Count != dropsOf(s.before, e) && !slices.ContainsFunc(s.expect, isIt) {
			s.t.Errorf("dropped too: %+v", drop)
		}
	}
}

func dropsOf(s dataplane.Stats, e expected) uint64 {
	for _, d := range s.Drops {
		if d.Network == e.network && d.Direction == e.direction && d.Reason == e.reason {
			return d.Count
		}
	}
	return 0
}

func socketDrops(s dataplane.Stats) (n uint64) {
	for _, w := range s.Wire {
		n += w.SocketDropped
	}
	return n
}

// network returns the counters of blue.
func (s *scene) network() dataplane.NetworkStats {
	s.t.Helper()
	for _, n := range s.d.stats().Networks {
		if n.Network == "blue" {
			return n
		}
	}
	s.t.Fatal("there is no network blue")
	return dataplane.NetworkStats{}
}

// place makes the sites; where they are three, the third is no peer.
func place(t *testing.T, f *fault) *scene {
	t.Helper()
	count := f.sites
	if count == 0 {
		count = 3
	}
	sites := must[[]*netlab.Site](t)(netlabtest.New(t).Sites(netlab.SiteSpec{Count: count, V6: f.v6}))
	s := &scene{t: t, f: f, a: sites[0], b: sites[1]}
	if count > 2 {
		s.c = sites[2]
	}
	return s
}

// besideKernel has the kernel's device at b.
func besideKernel(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	s.conf = at(s.a, blue(s.a, s.b).with(f.lines...))
	s.d = start(t, s.a.Host, s.conf)
	return s
}

// besideOvertap has a second daemon at b.
func besideOvertap(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	s.farConf = at(s.b, blue(s.b, s.a))
	s.far = start(t, s.b.Host, s.farConf)
	s.d = start(t, s.a.Host, at(s.a, blue(s.a, s.b).with(f.lines...)))
	return s
}

// hostilePeer has the kernel's device at b, and c as a peer whose intentions are
// not honest.
func hostilePeer(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	s.d = start(t, s.a.Host, at(s.a, blue(s.a, s.b, s.c).with(f.lines...)))
	return s
}

// figures are those of one phase: what was lost, and the round trip.
var figures = regexp.MustCompile(`^\d+\.\d\d %, [\d.]+(µs|ms|s)$`)

// Each fault is a row of the document, in its order, and each row a fault.
func TestFaultsAreDocumented(t *testing.T) {
	doc := string(must[[]byte](t)(os.ReadFile("../../docs/faults.md")))
	_, table, _ := strings.Cut(doc, "| --- |")
	table, _, _ = strings.Cut(table, "\n\n")
	var rows, names []string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		rows = append(rows, cells[0])
		if len(cells) != 6 {
			t.Errorf("the row of %q has %d cells", cells[0], len(cells))
			continue
		}
		for _, figure := range cells[3:] {
			if !figures.MatchString(figure) {
				t.Errorf("%q in the row of %q: want the loss and the 99th percentile", figure, cells[0])
			}
		}
	}
	for _, f := range faults() {
		names = append(names, f.name)
	}
	if d := cmp.Diff(names, rows); d != "" {
		t.Errorf("faults and the rows of docs/faults.md (-faults +rows):\n%s", d)
	}
}

// Each test that the document names is there.
func TestFaultsNameTheirTests(t *testing.T) {
	doc := string(must[[]byte](t)(os.ReadFile("../../docs/faults.md")))
	named := regexp.MustCompile(`\| (Test\w+) \|\n`).FindAllStringSubmatch(doc, -1)
	if len(named) < 20 {
		t.Fatalf("the document names %d tests", len(named))
	}
	there := make(map[string]bool)
	check(t, filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			there[m[1]] = true
		}
		return err
	}))
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
}
