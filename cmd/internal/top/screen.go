package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// The smallest terminal, and what stands above and below the rows.
const (
	leastWidth  = 40
	leastHeight = 8
	above       = 5 // three lines of the daemon, the views, the columns' titles
	below       = 1 // the keys
)

// place is where a view stands.
type place struct {
	order   int // column
	reverse bool
	offset  int // first row shown
}

// state is what the screen shows, and how.
type state struct {
	width, height int
	color         bool
	glyphs        []string
	arrows        [2]string // of an order: from the largest, from the smallest
	interval      time.Duration

	view    View
	places  [views]place
	filter  string
	typing  bool // the filter is
	paused  bool
	helping bool

	last   *sample
	rates  Rates
	record recorder
	err    error     // why the daemon did not answer last; nil = it did
	clock  time.Time // of the last answer, or failure

	page    control.FDBPage
	pageErr error

	shown  table // of the view
	picked []*row
}

// newState returns what stands there before the first sample.
func newState(interval time.Duration, view View, unicode, color bool) *state {
	s := &state{
		width: 80, height: 24, color: color, glyphs: ascii, arrows: [2]string{"v", "^"},
		interval: interval, view: view, page: control.FDBPage{},
	}
	if unicode {
		s.glyphs, s.arrows = blocks, [2]string{"▼", "▲"}
	}
	for v := range s.places {
		s.places[v].order = firstOrder[v]
	}
	return s
}

// observe enters a sample.
func (s *state) observe(now *sample) {
	s.rates = rates(s.last, now)
	s.record.record(now.at, s.interval, &s.rates)
	s.last, s.err, s.clock = now, nil, now.at
	s.arrange()
}

// fail enters that the daemon did not answer.
func (s *state) fail(err error, at time.Time) { s.err, s.clock = err, at }

// arrange picks the rows that the view shows. It follows each change of the
// samples, the view, the filter, the order or the size.
func (s *state) arrange() {
	p := s.place()
	if s.view == FDB {
		s.shown = fdbTable(&s.page)
		s.picked = s.picked[:0]
		for i := range s.shown.rows {
			s.picked = append(s.picked, &s.shown.rows[i])
		}
	} else {
		s.shown = tableOf(s.view, &s.rates, s.record.recorded, s.clock)
		s.picked = s.shown.pick(s.filter, p.order, p.reverse)
	}
	p.offset = min(p.offset, max(s.reach()-s.body(), 0))
}

func (s *state) place() *place { return &s.places[s.view] }

// body is how many rows fit.
func (s *state) body() int { return max(s.height-above-below, 1) }

// count is how many rows the view has to show, and reach how many of them can be
// scrolled to.
func (s *state) count() int {
	if s.view == FDB {
		return s.page.Matched
	}
	return len(s.picked)
}

func (s *state) reach() int {
	if s.view == FDB {
		return min(s.page.Matched, control.MaxPaged)
	}
	return len(s.picked)
}

// query is what the FDB's view asks for.
func (s *state) query(network string) control.FDBQuery {
	p := &s.places[FDB]
	offset := min(p.offset, control.MaxPaged)
	return control.FDBQuery{
		Network: network, Contains: s.filter, Order: fdbOrders[p.order],
		Reverse: p.reverse != headers[FDB][p.order].down,
		Offset:  offset, Limit: min(s.body(), control.MaxPaged-offset),
	}
}

// lines returns the screen: at most as many lines as it is high, none wider than
// it is wide.
func (s *state) lines() []string {
	if s.width < leastWidth || s.height < leastHeight {
		return s.tooSmall()
	}
	lines := append(s.header(), s.tabs())
	if s.helping {
		lines = append(lines, s.help()...)
	} else {
		lines = append(lines, s.rows()...)
	}
	lines = lines[:min(len(lines), s.height-below)]
	for len(lines) < s.height-below {
		lines = append(lines, "")
	}
	return append(lines, s.keys())
}

func (s *state) tooSmall() []string {
	var out []string
	for _, t := range []string{
		fmt.Sprintf("overtap top needs %dx%d", leastWidth, leastHeight), fmt.Sprintf("this is %dx%d", s.width, s.height),
	} {
		if len(out) < s.height {
			l := s.line()
			l.put(normal, t)
			out = append(out, l.String())
		}
	}
	return out
}

// style is how text stands out.
type style int

const (
	normal style = iota
	bold
	faint
	reversed
	red
	yellow
)

// sgr are the parameters of Select Graphic Rendition (ECMA-48, 8.3.117), and mono
// those where there must be no colour.
var (
	sgr  = [...]string{bold: "1", faint: "2", reversed: "7", red: "1;31", yellow: "33"}
	mono = [...]string{bold: "1", faint: "2", reversed: "7", red: "1", yellow: "1"}
)

// line is written from left to right, and cut where the screen ends.
type line struct {
	b           strings.Builder
	used, width int
	color       bool
}

func (s *state) line() *line { return &line{width: s.width, color: s.color} }

func (l *line) put(st style, t string) {
	t = ansi.Truncate(clean(t), l.width-l.used, "")
	if t == "" {
		return
	}
	l.used += ansi.StringWidth(t)
	if st == normal {
		l.b.WriteString(t)
		return
	}
	code := mono[st]
	if l.color {
		code = sgr[st]
	}
	l.b.WriteString("\x1b[" + code + "m" + t + "\x1b[m")
}

// right puts the first of the texts for which there is room at the end of the
// line.
func (l *line) right(st style, texts ...string) {
	for _, t := range texts {
		if n := l.width - l.used - ansi.StringWidth(t); n > 0 {
			l.put(normal, strings.Repeat(" ", n))
			l.put(st, t)
			return
		}
	}
}

func (l *line) String() string { return l.b.String() }

// entries is how many there are in the forwarding table.
func (s *state) entries() int {
	n := 0
	for i := range s.rates.Networks {
		if s.rates.Networks[i].Kind == dataplane.KindVXLAN {
			n += s.rates.Networks[i].Entries
		}
	}
	return n
}

// header says how the daemon is: three lines.
func (s *state) header() []string {
	first, second, third := s.line(), s.line(), s.line()
	first.put(bold, "overtap top")
	st := &s.last.status
	first.put(normal, "  "+clean(st.Version)+", pid "+fmt.Sprint(st.PID)+", ")
	switch {
	case s.err != nil:
		first.put(red, "no answer for "+age(s.clock.Sub(s.last.at)))
	case st.Ready:
		first.put(normal, "ready, up "+age(time.Duration(st.Uptime)*time.Second))
	default:
		first.put(yellow, "not ready")
		first.put(normal, ", up "+age(time.Duration(st.Uptime)*time.Second))
	}
	clock := s.clock.Format("15:04:05")
	if s.paused {
		first.right(normal, "paused  "+clock, "paused")
	} else {
		first.right(normal, clock)
	}

	t := &s.rates.total
	s.total(second, "tx", t.TxBits, t.TxPackets, txKey)
	second.put(normal, "   ")
	s.total(second, "rx", t.RxBits, t.RxPackets, rxKey)

	switch {
	case s.err != nil:
		third.put(red, "reconnecting: "+clean(s.err.Error()))
	case len(st.Problems) > 0:
		third.put(yellow, "not ready: "+clean(st.Problems[0]))
	default:
		third.put(faint, "drops ")
		third.put(normal, s.rate(s.rates.drops)+"/s "+s.spark(dropsKey, 10))
		third.put(faint, "   fdb ")
		third.put(normal, plural(s.entries(), "entry"))
		if len(st.Warnings) > 0 {
			third.put(yellow, "   warning: "+clean(st.Warnings[0]))
		}
	}
	return []string{first.String(), second.String(), third.String()}
}

func (s *state) total(l *line, way string, bits, packets float64, key string) {
	l.put(faint, way+" ")
	l.put(bold, fmt.Sprintf("%*s", siWidth, s.rate(bits)))
	l.put(normal, "bit/s ")
	l.put(bold, fmt.Sprintf("%*s", siWidth, s.rate(packets)))
	l.put(normal, "pkt/s "+s.spark(key, 10))
}

// rate writes a rate, of which a first sample knows nothing.
func (s *state) rate(v float64) string {
	if s.rates.Seconds == 0 {
		return "-"
	}
	return si(v)
}

func (s *state) spark(key string, cells int) string {
	h := s.record.recorded[key]
	if h == nil {
		h = newHistory()
	}
	return h.sparkline(cells, s.glyphs)
}

// tabs names the views, and says which rows of this one stand below in which
// order.
func (s *state) tabs() string {
	l := s.line()
	counts := [views]int{len(s.rates.Networks), len(s.rates.Peers), len(s.rates.Drops), s.entries()}
	for v := range views {
		st := normal
		if v == s.view {
			st = reversed
		}
		label := fmt.Sprintf(" %d %s %s ", v+1, v, count(float64(counts[v])))
		if s.width < 60 {
			label = fmt.Sprintf(" %d %s ", v+1, v)
		}
		l.put(st, label)
	}
	p := s.place()
	arrow := s.arrows[0]
	if s.shown.columns[p.order].down == p.reverse {
		arrow = s.arrows[1]
	}
	by := "by " + s.shown.columns[p.order].title + " " + arrow
	if n := len(s.visible()); n > 0 && s.count() > n {
		by = fmt.Sprintf("%d-%d of %d, ", p.offset+1, p.offset+n, s.count()) + by
	}
	l.right(faint, by)
	return l.String()
}

// visible are the rows that are shown.
func (s *state) visible() []*row {
	if s.view == FDB {
		return s.picked[:min(len(s.picked), s.body())]
	}
	from := min(s.place().offset, len(s.picked))
	return s.picked[from:min(from+s.body(), len(s.picked))]
}

// rows returns the columns' titles and the rows below them.
func (s *state) rows() []string {
	visible := s.visible()
	widths := s.shown.fit(s.width, s.picked)
	head := s.line()
	for i, w := range widths {
		st := bold
		if i == s.place().order {
			st = reversed
		}
		s.put(head, st, s.shown.columns[i].title, w, s.shown.columns[i].right)
	}
	lines := []string{head.String()}
	for _, r := range visible {
		l := s.line()
		st := normal
		if r.alarm {
			st = yellow
		}
		for i, w := range widths {
			if w > 0 {
				s.put(l, st, r.cells[i].write(w, s.glyphs), w, s.shown.columns[i].right)
			}
		}
		lines = append(lines, l.String())
	}
	if len(visible) == 0 {
		l := s.line()
		l.put(faint, s.nothing())
		lines = append(lines, "", l.String())
	}
	return lines
}

// put writes a cell of a width, and before it the gap to the one at its left.
func (s *state) put(l *line, st style, t string, width int, right bool) {
	if width == 0 {
		return
	}
	if l.used > 0 {
		l.put(normal, strings.Repeat(" ", gap))
	}
	if ansi.StringWidth(t) > width {
		tail := "…"
		if len(s.glyphs[0]) == 1 {
			tail = "~"
		}
		t = ansi.Truncate(t, width, tail)
	}
	pad := strings.Repeat(" ", width-ansi.StringWidth(t))
	if right {
		l.put(normal, pad)
		l.put(st, t)
	} else {
		l.put(st, t)
		l.put(normal, pad)
	}
}

// nothing says why there are no rows.
func (s *state) nothing() string {
	switch {
	case s.view == FDB && s.pageErr != nil:
		return clean(s.pageErr.Error())
	case s.filter != "":
		return fmt.Sprintf("nothing contains %q: esc clears the filter", s.filter)
	case s.view == Networks:
		return "the daemon has no network"
	case s.view == Drops:
		return "nothing was dropped"
	case s.view == FDB:
		return "the forwarding table is empty"
	}
	return "no " + strings.TrimSuffix(s.view.String(), "s")
}
