package top

import (
	"math"
	"strings"
	"time"
)

// window is how far a history goes back, and columns how many values it keeps.
const (
	window  = time.Minute
	columns = 30
)

// history is the last minute of a rate in equal spans of time, of which the last
// is the one that runs.
type history struct {
	spans [columns]float32 // NaN = nothing was measured
	last  int64            // number of the newest span
}

func newHistory() *history {
	h := &history{}
	for i := range h.spans {
		h.spans[i] = float32(math.NaN())
	}
	return h
}

// spanOf numbers the spans of time.
func spanOf(at time.Time) int64 { return at.UnixNano() / int64(window/columns) }

// observe enters the rate that was measured from one moment to another. Of two
// that fall into one span the newer stands.
func (h *history) observe(from, to time.Time, rate float64) {
	first, last := spanOf(from)+1, spanOf(to)
	first = min(first, last)
	for n := max(h.last+1, last-columns+1); n < first; n++ {
		h.spans[n%columns] = float32(math.NaN())
	}
	for n := max(first, last-columns+1); n <= last; n++ {
		h.spans[n%columns] = float32(rate)
	}
	h.last = max(h.last, last)
}

// mean returns the average of what was measured in the last minute.
func (h *history) mean() float64 {
	sum, n := 0.0, 0
	for _, v := range h.spans {
		if v == v {
			sum += float64(v)
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// glyphs are the steps of a sparkline: zero, and from little to the most.
var (
	blocks = []string{"▁", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}
	ascii  = []string{"_", ".", ":", "-", "=", "+", "*", "%", "#"}
)

// sparkline draws the last minute in as many cells as fit of columns, a half or a
// third of them; the most that was measured is as high as a cell. A cell where
// nothing was measured is empty.
func (h *history) sparkline(cells int, glyphs []string) string {
	group := (columns + max(cells, 1) - 1) / max(cells, 1)
	var values []float64
	top := 0.0
	for n := h.last - columns + 1; n <= h.last; n += int64(group) {
		v := math.NaN()
		for i := n; i < n+int64(group) && i <= h.last; i++ {
			if i < 0 {
				continue
			}
			if s := float64(h.spans[i%columns]); s == s && !(v >= s) {
				v = s
			}
		}
		values = append(values, v)
		if v > top {
			top = v
		}
	}
	var b strings.Builder
	for _, v := range values {
		switch {
		case v != v:
			b.WriteByte(' ')
		case v <= 0:
			b.WriteString(glyphs[0])
		default:
			b.WriteString(glyphs[1+min(int(v/top*float64(len(glyphs)-1)), len(glyphs)-2)])
		}
	}
	return b.String()
}

// recorder keeps the histories of all that a view shows, by their keys.
type recorder struct {
	at       time.Time // of the last sample; zero = none
	recorded map[string]*history
	seen     map[string]bool
}

// record enters the rates of a sample taken at a moment. What is not among them
// is forgotten; a first sample has no rates.
func (r *recorder) record(at time.Time, interval time.Duration, x *Rates) {
	if r.recorded == nil {
		r.recorded = make(map[string]*history)
	}
	from := r.at
	// The daemon was gone: what is known of that time is an average at best.
	if from.IsZero() || at.Sub(from) > 2*interval+patience {
		from = at
	}
	r.at, r.seen = at, make(map[string]bool, len(r.recorded))
	enter := func(key string, rate float64) {
		r.seen[key] = true
		h := r.recorded[key]
		if h == nil {
			h = newHistory()
			r.recorded[key] = h
		}
		if x.Seconds > 0 {
			h.observe(from, at, rate)
		}
	}
	enter(txKey, x.total.TxBits)
	enter(rxKey, x.total.RxBits)
	enter(dropsKey, x.drops)
	for i := range x.Networks {
		enter(x.Networks[i].key(), x.Networks[i].bits())
	}
	for i := range x.Peers {
		enter(x.Peers[i].key(), x.Peers[i].bits())
	}
	for i := range x.Drops {
		enter(x.Drops[i].key(), x.Drops[i].Rate)
	}
	for key := range r.recorded {
		if !r.seen[key] {
			delete(r.recorded, key)
		}
	}
}

// The keys of histories: the totals, and each row.
const (
	txKey    = "tx"
	rxKey    = "rx"
	dropsKey = "drops"
)

func (n *Network) key() string { return "network " + n.Network }
func (p *Peer) key() string    { return "peer " + p.Network + " " + p.Peer.String() }
func (d *Drop) key() string    { return "drop " + d.Network + " " + d.Direction + " " + d.Reason }
