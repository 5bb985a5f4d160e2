package top

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// onceFDB is how many entries of the FDB Once shows.
const onceFDB = 100

// Once takes two samples, an interval apart, and writes what the view shows of
// them as plain text: all its rows, but of the FDB the first hundred.
func (o Options) Once(ctx context.Context, w io.Writer) error {
	s, err := o.twice(ctx)
	if err != nil {
		return err
	}
	if o.View == FDB {
		s.height = above + onceFDB + below
		q := s.query(o.Network)
		if s.page, err = o.page(ctx, q); err != nil {
			return err
		}
	}
	s.arrange()
	return s.print(w)
}

// JSON takes two samples, an interval apart, and writes their Rates.
func (o Options) JSON(ctx context.Context, w io.Writer) error {
	s, err := o.twice(ctx)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(&s.rates); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// twice returns what stands on the screen after two samples.
func (o Options) twice(ctx context.Context) (*state, error) {
	s := newState(o.Interval, o.View, false, false)
	first, err := o.take(ctx)
	if err != nil {
		return nil, err
	}
	s.observe(first)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(o.Interval):
	}
	second, err := o.take(ctx)
	if err != nil {
		return nil, err
	}
	s.observe(second)
	return s, nil
}

// print writes the totals and the view's rows, as wide as they are.
func (s *state) print(w io.Writer) error {
	var b strings.Builder
	t := &s.rates.total
	fmt.Fprintf(&b, "tx %sbit/s %spkt/s, rx %sbit/s %spkt/s, drops %s/s\n\n", si(t.TxBits), si(t.TxPackets), si(t.RxBits), si(t.RxPackets), si(s.rates.drops))
	s.width = math.MaxInt32
	var widths []int
	for i, width := range s.shown.fit(s.width, s.picked) {
		if s.shown.columns[i].history() {
			width = 0
		}
		widths = append(widths, width)
	}
	write := func(texts func(i int) string) {
		l := s.line()
		for i, width := range widths {
			if width > 0 {
				s.put(l, normal, texts(i), width, s.shown.columns[i].right)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	write(func(i int) string { return s.shown.columns[i].title })
	for _, r := range s.picked {
		write(func(i int) string { return r.cells[i].write(widths[i], s.glyphs) })
	}
	switch {
	case len(s.picked) == 0:
		b.Reset()
		b.WriteString(s.nothing() + "\n")
	case s.view == FDB && s.page.Matched > len(s.picked):
		fmt.Fprintf(&b, "the first %d of %s\n", len(s.picked), plural(s.page.Matched, "entry"))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
