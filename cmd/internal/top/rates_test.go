package top

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

func TestRates(t *testing.T) {
	before, now := second(10), second(10)
	now.at = before.at.Add(2 * time.Second)
	blue := &now.stats.Networks[0]
	blue.TxBytes += 1000
	blue.TxPackets += 10
	blue.RxBytes += 500
	blue.RxPackets += 4
	now.stats.Peers[0].TxBytes += 250
	now.stats.Drops[1].Count += 8
	now.stats.Wire[0].SocketDropped++
	now.stats.Wire[1].SocketDropped++
	r := rates(before, now)
	want := Rate{TxBits: 4000, TxPackets: 5, RxBits: 2000, RxPackets: 2}
	if r.Seconds != 2 || r.Networks[0].Rate != want || r.total != want || r.Networks[1].Rate != (Rate{}) {
		t.Errorf("%+v", r)
	}
	if r.Peers[0].Rate != (Rate{TxBits: 1000}) || r.Peers[0].PathMTU != 1400 {
		t.Errorf("%+v", r.Peers)
	}
	if r.Networks[0].Drops != 4 || r.drops != 5 || len(r.Drops) != 3 || r.Drops[0].Rate != 0 || r.Drops[1].Rate != 4 ||
		r.Drops[2] != (Drop{Direction: "inbound", Reason: "socket_dropped", Rate: 1, Count: 22, text: "the kernel found the receive buffer full"}) {
		t.Errorf("%+v", r.Drops)
	}
}

// What began again counts from zero, whether or not it has overtaken what it was.
func TestRatesAfterRestart(t *testing.T) {
	for name, change := range map[string]func(*sample){
		"counters go back": func(*sample) {},
		"another process":  func(s *sample) { s.status.PID++ },
		"another, and it is past it": func(s *sample) {
			s.status.PID++
			s.stats.Networks[0].Traffic = dataplane.Traffic{TxPackets: 1 << 40, TxBytes: 1 << 50, RxPackets: 1 << 40, RxBytes: 1 << 50}
		},
	} {
		before, now := second(1000), second(1)
		now.at = before.at.Add(time.Second)
		change(now)
		r := rates(before, now)
		n := now.stats.Networks[0]
		want := Rate{TxBits: 8 * float64(n.TxBytes), TxPackets: float64(n.TxPackets), RxBits: 8 * float64(n.RxBytes), RxPackets: float64(n.RxPackets)}
		if r.Networks[0].Rate != want || r.Drops[1].Rate != 12 {
			t.Errorf("%s: %+v, want %+v", name, r.Networks[0], want)
		}
	}
}

// A network that was taken out and came again counts from zero, all of it; what is
// beside it goes on.
func TestRatesAfterReload(t *testing.T) {
	before, now := second(10), second(11)
	now.stats.Networks[0].Traffic = dataplane.Traffic{TxPackets: 5, TxBytes: 500, RxPackets: 1 << 40, RxBytes: 1 << 50}
	r := rates(before, now)
	if r.Networks[0].Rate != (Rate{4000, 5, 8 << 50, 1 << 40}) {
		t.Errorf("%+v", r.Networks[0])
	}
	if r.Networks[2].Rate != (Rate{TxBits: 8000, TxPackets: 10}) {
		t.Errorf("%+v", r.Networks[2])
	}
}

// Rates are numbers that are not negative, and counters that only grow come to
// what they grew by.
func TestRatesAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := &sample{at: begun, status: control.Status{PID: 1}, stats: genStats(t)}
		now := &sample{at: begun.Add(time.Duration(rapid.Int64Range(-1e9, 1e11).Draw(t, "later"))), status: control.Status{PID: 1}, stats: genStats(t)}
		sound := func(v float64) {
			if !(v >= 0) || math.IsInf(v, 0) {
				t.Fatalf("rate %v", v)
			}
		}
		r := rates(before, now)
		for _, n := range r.Networks {
			for _, v := range []float64{n.TxBits, n.TxPackets, n.RxBits, n.RxPackets, n.Drops} {
				sound(v)
			}
		}
		for _, d := range r.Drops {
			sound(d.Rate)
		}
		sound(r.total.bits())
		sound(r.drops)

		grown := &sample{at: begun.Add(time.Second), status: control.Status{PID: 1}}
		by := rapid.Uint64Range(0, 1<<40).Draw(t, "by")
		base := dataplane.PeerStats{Peer: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Traffic: dataplane.Traffic{TxBytes: rapid.Uint64Range(0, 1<<60).Draw(t, "base")}}
		before.stats = dataplane.Stats{Peers: []dataplane.PeerStats{base}}
		base.TxBytes += by
		grown.stats = dataplane.Stats{Peers: []dataplane.PeerStats{base}}
		if got := rates(before, grown).Peers[0].TxBits; got != 8*float64(by) {
			t.Fatalf("%v, want %d", got, 8*by)
		}
	})
}

func TestHistory(t *testing.T) {
	h := newHistory()
	at := func(s int) time.Time { return begun.Add(time.Duration(s) * time.Second) }
	if got := h.sparkline(10, ascii); got != "          " || h.mean() != 0 {
		t.Errorf("%q, mean %v", got, h.mean())
	}
	// Three minutes pass of which the last counts: 30 s of nothing, then a ramp.
	for s := range 150 {
		h.observe(at(s), at(s+1), 1e9)
	}
	for s := 120; s < 150; s++ {
		h.observe(at(s), at(s+1), 0)
	}
	for s := 150; s < 180; s++ {
		h.observe(at(s), at(s+1), float64(s-149))
	}
	if got := h.sparkline(columns, ascii); got != "______________..::--=++**%%###" {
		t.Errorf("%q", got)
	}
	if got := h.sparkline(10, ascii); got[:4] != "____" || got[9] != '#' {
		t.Errorf("%q", got)
	}
	if m := h.mean(); m < 6 || m > 10 {
		t.Errorf("mean %v", m)
	}
	// One rate over ten seconds fills them; a minute later it is all gone.
	h.observe(at(180), at(190), 30)
	if got := h.sparkline(columns, ascii); got[25:] != "#####" {
		t.Errorf("%q", got)
	}
	h.observe(at(300), at(300), 1)
	if got := h.sparkline(columns, ascii); got != "                             #" {
		t.Errorf("%q", got)
	}
}

// What is no more is forgotten, and a gap in the samples is one in the line.
func TestRecorderForgets(t *testing.T) {
	var r recorder
	enter := func(s int, x Rates) { r.record(begun.Add(time.Duration(s)*time.Second), time.Second, &x) }
	one := Rates{Seconds: 1, Networks: []Network{{Network: "blue", Rate: Rate{TxBits: 1}}}}
	enter(0, one)
	enter(1, one)
	enter(41, one)
	if got := r.recorded["network blue"].sparkline(columns, ascii); got != "         #                   #" {
		t.Errorf("%q", got)
	}
	enter(42, Rates{Seconds: 1})
	if len(r.recorded) != 3 || r.recorded["network blue"] != nil {
		t.Errorf("%d are kept", len(r.recorded))
	}
}

func TestFormats(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.01: "<0.1", 0.05: "0.1", 1: "1", 1.25: "1.2", 9.94: "9.9", 9.96: "10", 999.4: "999", 999.6: "1.00k", 1234: "1.23k", 9999: "10.0k",
		99_999: "100k", 999_499: "999k", 999_600: "1.00M", 12_345_678: "12.3M", 1.2e9: "1.20G", 4e12: "4.00T", 4e15: "4.00P", 4e18: "4.00E",
		5e22: ">999E", math.Inf(1): ">999E", -1: "0",
	} {
		if got := si(v); got != want {
			t.Errorf("si(%v) = %q, want %q", v, got, want)
		}
	}
	if got := si(math.NaN()); got != "-" {
		t.Errorf("%q", got)
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 2 * time.Hour: "2h00m", 49 * time.Hour: "2d01h"} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 entries", 1: "1 entry"} {
		if got := plural(n, "entry"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float64().Draw(t, "v")
		if got := si(v); len(got) > siWidth || got == "" {
			t.Fatalf("si(%v) = %q", v, got)
		}
		n := rapid.Uint64().Draw(t, "n")
		if got := count(float64(n)); len(got) > 7 {
			t.Fatalf("count(%d) = %q", n, got)
		}
	})
}
