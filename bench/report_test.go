package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files again")

// fixture is a run as it might have been, with all that a report can hold: both
// directions, two figures of one load, losses, a row that failed and names that
// have to be escaped.
func fixture(t *testing.T) *Report {
	loads := []Load{loadNamed(t, "tcp1"), loadNamed(t, "udp64"), loadNamed(t, "rtt"), loadNamed(t, "mixed")}
	tcp := func(gbit float64) Sample {
		n := int64(gbit * 1e9 / 8 * 2)
		return Sample{TCP: &TCPSample{BitsPerSecond: gbit * 1e9, Counts: Counts{n, n, 0}, Retransmits: int64(gbit)}}
	}
	udp := func(kpps float64, lost, overflowed int64) Sample {
		n := int64(kpps * 2000)
		return Sample{UDP: &UDPSample{
			OfferedPerSecond: float64(n+lost) / 2, ReceivedPerSecond: kpps * 1e3,
			Counts: Counts{n + lost, n, lost}, Overflowed: overflowed, Bytes: 64 * n,
		}}
	}
	rtt := func(median, p99 time.Duration, lost int64) Sample {
		return Sample{RTT: &RTTSample{HalfMedian: median, HalfP99: p99, Counts: Counts{8000, 8000 - lost, lost}}}
	}
	both := func(gbit, kpps float64) Sample {
		return Sample{TCP: tcp(gbit).TCP, UDP: udp(kpps, 0, 0).UDP}
	}
	lane := func(l Load, row Row, reverse bool, samples ...Sample) LaneResult {
		for i := range samples {
			c := Cost{MachineSeconds: 3.5 + float64(i)}
			if row.NeedsBinary() {
				c.DaemonSeconds, c.PeakRSS = 1.25, 33<<20
			}
			samples[i].charge(c, 2100*time.Millisecond)
		}
		at := Lane{row, reverse}
		return LaneResult{Lane: at, Title: title(at, l), Samples: samples}
	}
	broken := lane(loads[0], Overtap2, false)
	broken.Error = "overtap ended by itself (exit status 1); its log:\nlevel=ERROR msg=\"no <tun>\""
	r := &Report{
		Machine: Machine{
			Kernel: "6.18.0-test", Arch: "amd64", CPU: "Quick & Small <CPU>", Cores: 2, Load: "0.10 0.20 0.30",
			Go: "go1.26.0", Overtap: "overtap v0.1.0 go1.26.0 linux/amd64",
		},
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Runs:    3, Seconds: 2,
		Underlays: []Underlay{{
			Name: "all", Title: "all offloads",
			Features: map[string]bool{"tx-udp_tnl-segmentation": true, "tx-tcp-segmentation": true, "rx-gro": false},
			Errors:   []string{"row overtap2: it did not stop"},
			Loads: []LoadResult{
				{Name: "tcp1", Title: loads[0].Title, Lanes: []LaneResult{
					lane(loads[0], Plain, false, tcp(13), tcp(12), tcp(14)),
					lane(loads[0], Kernel, false, tcp(9), tcp(11), tcp(10)),
					lane(loads[0], Overtap, false, tcp(7.5), tcp(8), tcp(7)),
					lane(loads[0], Overtap, true, tcp(6), tcp(6), tcp(6)),
					broken,
				}},
				{Name: "udp64", Title: loads[1].Title, Lanes: []LaneResult{
					lane(loads[1], Kernel, false, udp(250, 1000, 0), udp(240, 0, 0), udp(260, 0, 0)),
					lane(loads[1], Overtap, false, udp(400, 100_000, 50_000), udp(390, 0, 0), udp(410, 0, 0)),
				}},
				{Name: "rtt", Title: loads[2].Title, Lanes: []LaneResult{
					lane(loads[2], Kernel, false, rtt(45_000, 90_000, 0)),
					lane(loads[2], Overtap, false, rtt(90_000, 99_900, 7)),
				}},
				{Name: "mixed", Title: loads[3].Title, Lanes: []LaneResult{
					lane(loads[3], Kernel, false, both(8, 50)),
					lane(loads[3], Overtap2, false, both(4, 49.5)),
				}},
			},
		}, {
			Name: "none", Title: "no offloads", Features: map[string]bool{"tx-tcp-segmentation": false},
			Loads: []LoadResult{{}, {Name: "udp64", Title: loads[1].Title, Lanes: []LaneResult{
				lane(loads[1], Overtap, false, udp(0.0625, 0, 0)),
			}}, {}, {}},
		}},
	}
	r.finish(loads)
	// The empty ones stood in for loads that were not asked for.
	r.Underlays[1].Loads = r.Underlays[1].Loads[1:2]
	return r
}

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(*Report, io.Writer) error
	}{
		{"report.md", (*Report).WriteMarkdown},
		{"report.json", (*Report).WriteJSON},
		{"report.svg", (*Report).WriteSVG},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			check(t, c.write(fixture(t), &b))
			file := filepath.Join("testdata", c.name)
			if *update {
				check(t, os.WriteFile(file, b.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			check(t, err)
			if d := cmp.Diff(string(want), b.String()); d != "" {
				t.Errorf("-want +got; go test ./bench -run Golden -update writes it again\n%s", d)
			}
		})
	}
}

func TestJSONReadsBack(t *testing.T) {
	r := fixture(t)
	var b bytes.Buffer
	check(t, r.WriteJSON(&b))
	var back Report
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	check(t, d.Decode(&back))
	if d := cmp.Diff(r, &back); d != "" {
		t.Error(d)
	}
}

func TestSVGIsXML(t *testing.T) {
	for _, r := range []*Report{fixture(t), {Underlays: []Underlay{{Title: "nothing measured"}}}, {}} {
		var b bytes.Buffer
		check(t, r.WriteSVG(&b))
		d := xml.NewDecoder(&b)
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLabelsFit takes a letter for 6.5 pixels, which is wide for the font's size.
func TestLabelsFit(t *testing.T) {
	for _, l := range Loads {
		for _, f := range l.Figures {
			label := l.Title
			if len(l.Figures) > 1 {
				label += ": " + f.Name
			}
			if w := 6.5 * float64(len([]rune(label))); w > svgLeft-10 {
				t.Errorf("%q takes %.0f pixels", label, w)
			}
		}
	}
}

func TestWritersPassErrorsOn(t *testing.T) {
	r := fixture(t)
	for name, write := range map[string]func(io.Writer) error{
		"markdown": r.WriteMarkdown, "json": r.WriteJSON, "svg": r.WriteSVG,
	} {
		if err := write(full{}); !errors.Is(err, errFull) {
			t.Errorf("%s to a full disk: %v", name, err)
		}
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
