package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"overtap/bench/netlab"
)

// Plan is a run: every load on every row and underlay.
type Plan struct {
	Rows      []Row
	Underlays []netlab.Offload
	Loads     []Load
	Runs      int // turns of each lane; 0 = 5
	Options   Options
	Binary    string // overtap's, when a row needs it
	// Progress is called for every turn; nil = not at all.
	Progress func(string)
}

// Run measures. Lanes take turns within each load; what fails is written down,
// and the lane left out from there on. The error is that of the plan itself, or
// the context's.
func (p Plan) Run(ctx context.Context) (*Report, error) {
	if len(p.Rows) == 0 || len(p.Underlays) == 0 || len(p.Loads) == 0 {
		return nil, errors.New("nothing to measure: want a row, an underlay and a load at least")
	}
	if p.Runs == 0 {
		p.Runs = 5
	}
	if p.Progress == nil {
		p.Progress = func(string) {}
	}
	p.Options = p.Options.withDefaults()
	if err := Sweep(); err != nil {
		return nil, err
	}
	machine, err := readMachine(ctx, p.Binary)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Machine: machine, Started: time.Now().UTC().Truncate(time.Second),
		Runs: p.Runs, Seconds: p.Options.Duration.Seconds(),
	}
	for _, o := range p.Underlays {
		u, err := p.underlay(ctx, o)
		if err != nil {
			return nil, err
		}
		r.Underlays = append(r.Underlays, u)
	}
	r.finish(p.Loads)
	return r, nil
}

// underlay measures all loads on one underlay. Loads that need equal beds share
// them.
func (p Plan) underlay(ctx context.Context, o netlab.Offload) (Underlay, error) {
	u := Underlay{Name: UnderlayName(o), Title: o.String(), Loads: make([]LoadResult, len(p.Loads))}
	done := map[BedSpec]bool{}
	for _, l := range p.Loads {
		spec := l.bedSpec(p.Options)
		if done[spec] {
			continue
		}
		done[spec] = true
		if err := p.onBeds(ctx, spec, o, &u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// onBeds builds a bed of the kind for each row and measures the loads that want
// that kind.
func (p Plan) onBeds(ctx context.Context, spec BedSpec, o netlab.Offload, u *Underlay) (err error) {
	beds := map[Row]*Bed{}
	defer func() {
		for _, b := range beds {
			if e := b.Close(); e != nil && err == nil {
				p.Progress(fmt.Sprintf("%s, row %s: %v", o, b.Spec.Row, e))
				u.Errors = append(u.Errors, fmt.Sprintf("row %s: %v", b.Spec.Row, e))
			}
		}
	}()
	failed := map[Row]error{}
	for _, row := range p.Rows {
		if row.Subnets() && spec != (BedSpec{}) {
			continue
		}
		s := spec
		s.Row, s.Offload, s.Binary = row, o, p.Binary
		bed, err := NewBed(ctx, s)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err != nil {
			failed[row] = err
			continue
		}
		beds[row] = bed
		if u.Features, err = bed.features(); err != nil {
			return err
		}
	}
	for i, l := range p.Loads {
		if l.bedSpec(p.Options) != spec {
			continue
		}
		if u.Loads[i], err = p.load(ctx, l, beds, failed); err != nil {
			return err
		}
	}
	return nil
}

// load measures one load: every lane once, then all again.
func (p Plan) load(ctx context.Context, l Load, beds map[Row]*Bed, failed map[Row]error) (LoadResult, error) {
	res := LoadResult{Name: l.Name, Title: l.Title}
	for _, row := range p.Rows {
		for _, lane := range lanes(row, l) {
			lr := LaneResult{Lane: lane, Title: title(lane, l)}
			if err := failed[row]; err != nil {
				lr.Error = err.Error()
			}
			res.Lanes = append(res.Lanes, lr)
		}
	}
	for n := range p.Runs {
		for i := range res.Lanes {
			lane := &res.Lanes[i]
			if lane.Error != "" {
				continue
			}
			s, err := beds[lane.Row].Measure(ctx, l, lane.Reverse, p.Options)
			if ctx.Err() != nil {
				return res, ctx.Err()
			}
			if err != nil {
				lane.Error = err.Error()
				p.Progress(err.Error())
				continue
			}
			lane.Samples = append(lane.Samples, s)
			for _, f := range l.Figures {
				p.Progress(fmt.Sprintf("%s, %s, turn %d of %d, %s: %s %s",
					beds[lane.Row].Spec.Offload, l.Title, n+1, p.Runs, lane.Title, number(f.of(s)), f.Unit))
			}
		}
	}
	return res, nil
}
