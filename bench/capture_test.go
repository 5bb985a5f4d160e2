package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
)

var against = flag.String("against", "", "another overtap `BINARY`, for BenchmarkAgainst")

// gigabit is a flow of 1 Gbit/s of payload, in datagrams of 1400 bytes.
var gigabit = traffic.UDPOptions{Size: 1400, Rate: 1e9 / 8 / 1400}

// BenchmarkCapture is what a capture costs those who are captured: a flow of
// 1 Gbit/s with every frame at every point written to a file, beside the same flow
// without, A B A B; and TCP as fast as it goes, with whole frames and with headers
// only. "÷unarmed" is of the medians.
func BenchmarkCapture(b *testing.B) {
	needs(b, Overtap)
	bed := newBed(b, BedSpec{Row: Overtap, Offload: netlab.AllOffloads})
	tcp := loadNamed(b, "tcp1")
	tcpRate := func() float64 {
		s, err := bed.Measure(context.Background(), tcp, false, Options{Duration: benchTurn})
		check(b, err)
		return s.TCP.BitsPerSecond / 1e9
	}
	udpRate := func() float64 {
		from, to := traffic.End{Host: bed.A.Container, Addr: bed.A.IPv4}, traffic.End{Host: bed.B.Container, Addr: bed.B.IPv4}
		o := gigabit
		o.Duration = benchTurn
		r, err := traffic.UDP(context.Background(), from, to, o)
		check(b, err)
		return r.PacketsPerSecond() * float64(o.Size) * 8 / 1e9
	}
	for _, c := range []struct {
		name string
		args []string
		turn func() float64
	}{
		{"gigabit", nil, udpRate},
		{"tcp1", nil, tcpRate},
		{"tcp1-headers", []string{"--snaplen", "96"}, tcpRate},
	} {
		b.Run(c.name, func(b *testing.B) {
			var without, with []float64
			frames, missed := 0, 0
			for range b.N {
				without = append(without, c.turn())
				stop := startCapture(b, bed.daemons[0], c.args...)
				with = append(with, c.turn())
				f, m := stop()
				frames, missed = frames+f, missed+m
			}
			b.ReportMetric(median(with), "Gbit/s")
			b.ReportMetric(median(with)/median(without), "÷unarmed")
			b.ReportMetric(float64(frames)/float64(b.N), "frames/op")
			b.ReportMetric(100*float64(missed)/max(float64(frames+missed), 1), "missed-%")
		})
	}
}

// BenchmarkAgainst compares this tree's program with another one, A B A B.
// "÷other" is of the medians.
func BenchmarkAgainst(b *testing.B) {
	if *against == "" {
		b.Skip("there is no -against BINARY")
	}
	needs(b, Overtap)
	other, err := NewBed(context.Background(), BedSpec{Row: Overtap, Offload: netlab.AllOffloads, Binary: *against})
	check(b, err)
	b.Cleanup(func() { check(b, other.Close()) })
	ours := newBed(b, BedSpec{Row: Overtap, Offload: netlab.AllOffloads})
	for _, name := range []string{"tcp1", "udp64"} {
		l := loadNamed(b, name)
		for _, reverse := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/reverse=%t", name, reverse), func(b *testing.B) {
				var a, o []float64
				for range b.N {
					for _, one := range []struct {
						bed  *Bed
						into *[]float64
					}{{other, &o}, {ours, &a}} {
						s, err := one.bed.Measure(context.Background(), l, reverse, Options{Duration: benchTurn})
						check(b, err)
						*one.into = append(*one.into, l.Figures[0].of(s))
					}
				}
				b.ReportMetric(median(a), metricUnit(l.Figures[0]))
				b.ReportMetric(median(a)/median(o), "÷other")
			})
		}
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// startCapture captures to a file until stop is called, which returns how many
// frames were written and how many missed.
func startCapture(tb testing.TB, d *daemon, args ...string) (stop func() (frames, missed int)) {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "x.pcapng")
	cmd := exec.Command(d.binary, append([]string{"capture", "--socket", d.Socket(), "-w", file}, args...)...)
	log := &journal{}
	cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(tb, cmd.Start())
	for deadline := time.Now().Add(readyLimit); !strings.Contains(log.String(), "capturing"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			check(tb, errors.Join(errors.New("it does not capture: "+log.String()), cmd.Process.Kill(), cmd.Wait()))
		}
	}
	return func() (frames, missed int) {
		check(tb, cmd.Process.Signal(syscall.SIGINT))
		check(tb, cmd.Wait())
		last := log.String()[strings.LastIndexByte(strings.TrimSpace(log.String()), '\n')+1:]
		if _, err := fmt.Sscanf(last, "%d frame", &frames); err != nil {
			tb.Fatalf("it says %q: %v", last, err)
		}
		if _, rest, some := strings.Cut(last, "; "); some {
			if _, err := fmt.Sscanf(rest, "%d frame", &missed); err != nil {
				tb.Fatalf("it says %q: %v", last, err)
			}
		}
		check(tb, os.Remove(file))
		return frames, missed
	}
}

// A capture of the benchmark's counts what it says.
func TestStartCapture(t *testing.T) {
	needs(t, Overtap)
	bed := newBed(t, BedSpec{Row: Overtap})
	stop := startCapture(t, bed.daemons[0], "--snaplen", "96")
	s, err := bed.Measure(context.Background(), loadNamed(t, "udp64"), false, short)
	check(t, err)
	frames, missed := stop()
	// Each datagram twice: from the TAP, and to the wire.
	if seen := frames + missed; int64(seen) < 2*s.UDP.Received {
		t.Errorf("%d frames were captured and %d missed of %d", frames, missed, s.UDP.Received)
	}
}
