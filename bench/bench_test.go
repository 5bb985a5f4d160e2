package bench

import (
	"context"
	"testing"
	"time"

	"overtap/bench/netlab"
)

// benchTurn is how long an iteration sends: -benchtime 5x is five turns.
const benchTurn = time.Second

func BenchmarkTCP(b *testing.B)   { benchLoads(b, "tcp1", "tcp4", "tcp16") }
func BenchmarkUDP64(b *testing.B) { benchLoads(b, "udp64") }
func BenchmarkRTT(b *testing.B)   { benchLoads(b, "rtt") }

// BenchmarkForeign is of the programs that people compare tunnels with.
func BenchmarkForeign(b *testing.B) {
	var names []string
	for _, l := range Loads {
		if l.Program != "" && l.Installed() {
			names = append(names, l.Name)
		}
	}
	benchLoads(b, names...)
}

// benchLoads has a sub-benchmark for each underlay, load and lane. An iteration
// is a turn. That of an overtap lane is preceded by one of the kernel's that is
// not timed, A B A B, and the ratio is of the medians of the two.
func benchLoads(b *testing.B, names ...string) {
	needs(b, Kernel, Overtap)
	for _, o := range netlab.Offloads {
		b.Run(UnderlayName(o), func(b *testing.B) {
			kernel := newBed(b, BedSpec{Row: Kernel, Offload: o})
			overtap := newBed(b, BedSpec{Row: Overtap, Offload: o})
			for _, name := range names {
				l := loadNamed(b, name)
				b.Run(name, func(b *testing.B) {
					b.Run("kernel", func(b *testing.B) { benchLane(b, l, nil, kernel, false) })
					for _, lane := range lanes(Overtap, l) {
						sub := "overtap"
						if lane.Reverse {
							sub = "overtap-reverse"
						}
						b.Run(sub, func(b *testing.B) { benchLane(b, l, kernel, overtap, lane.Reverse) })
					}
				})
			}
		})
	}
}

func benchLane(b *testing.B, l Load, kernel, bed *Bed, reverse bool) {
	ctx, o := context.Background(), Options{Duration: benchTurn}
	var base, ours []Sample
	for range b.N {
		if kernel != nil {
			b.StopTimer()
			s, err := kernel.Measure(ctx, l, false, o)
			check(b, err)
			base = append(base, s)
			b.StartTimer()
		}
		s, err := bed.Measure(ctx, l, reverse, o)
		check(b, err)
		ours = append(ours, s)
	}
	for i, f := range l.Figures {
		v := f.value(ours)
		b.ReportMetric(v.Median, metricUnit(f))
		if base != nil {
			unit := "÷kernel"
			if i > 0 {
				unit = metricUnit(f) + "÷kernel"
			}
			b.ReportMetric(v.Median/f.value(base).Median, unit)
		}
	}
	reportCounts(b, ours[l.Figures[0].value(ours).Turn])
}

// metricUnit returns the figure's unit, one word.
func metricUnit(f Figure) string {
	switch f.Name {
	case rttMedian.Name:
		return "µs-half-median"
	case rttP99.Name:
		return "µs-half-p99"
	case daemonPerPacket.Name:
		return "µs-daemon-per-packet"
	case udpRate.Name:
		return "kpps-received"
	}
	return f.Unit
}

// reportCounts reports what belongs beside the figure.
func reportCounts(b *testing.B, s Sample) {
	switch {
	case s.UDP != nil:
		b.ReportMetric(s.UDP.OfferedPerSecond/1e3, "kpps-offered")
		b.ReportMetric(100*s.UDP.LossShare(), "loss-%")
	case s.TCP != nil:
		b.ReportMetric(float64(s.TCP.Retransmits), "retransmits")
	case s.RTT != nil:
		b.ReportMetric(100*s.RTT.LossShare(), "loss-%")
	}
	if s.Cost.PerGB > 0 {
		b.ReportMetric(s.Cost.PerGB, "cpu-s/GB")
	}
	if s.Cost.PeakRSS > 0 {
		b.ReportMetric(float64(s.Cost.PeakRSS)/(1<<20), "MiB-peak")
		if s.Cost.DaemonPerGB > 0 {
			b.ReportMetric(s.Cost.DaemonPerGB, "daemon-cpu-s/GB")
		}
	}
}
