package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"overtap/bench/netlab"
)

// Report is what a run came to.
type Report struct {
	Machine   Machine    `json:"machine"`
	Started   time.Time  `json:"started"`
	Runs      int        `json:"runs"`             // turns of each lane
	Seconds   float64    `json:"seconds_per_turn"` // of sending
	Underlays []Underlay `json:"underlays"`
}

// Underlay is the part of a run on one kind of underlay.
type Underlay struct {
	Name     string          `json:"name"`
	Title    string          `json:"title"`
	Features map[string]bool `json:"features"` // of the underlay's devices, those that matter here
	Loads    []LoadResult    `json:"loads"`
	Errors   []string        `json:"errors,omitempty"` // of what belongs to no load
}

// LoadResult is one load on all rows.
type LoadResult struct {
	Name  string       `json:"name"`
	Title string       `json:"title"`
	Lanes []LaneResult `json:"lanes"`
}

// LaneResult is one load on one row in one direction.
type LaneResult struct {
	Lane
	Title   string   `json:"title"`
	Samples []Sample `json:"samples"`
	Values  []Value  `json:"values"`          // none without samples
	Error   string   `json:"error,omitempty"` // why turns are missing
}

// features are those whose state makes the kinds of underlay.
var features = []string{
	"tx-tcp-segmentation",
	"tx-udp-segmentation",
	"tx-generic-segmentation",
	"tx-udp_tnl-segmentation",
	"tx-udp_tnl-csum-segmentation",
	"tx-checksum-ip-generic",
	"rx-gro",
}

// features returns the state of the bed's underlay devices, read from the device
// of site a: b's is set alike.
func (b *Bed) features() (map[string]bool, error) {
	all, err := b.A.Host.Features(netlab.UnderlayDev)
	if err != nil {
		return nil, err
	}
	m := map[string]bool{}
	for _, name := range features {
		if on, ok := all[name]; ok {
			m[name] = on
		}
	}
	return m, nil
}

// finish works out the values from the samples.
func (r *Report) finish(loads []Load) {
	for u := range r.Underlays {
		for i := range r.Underlays[u].Loads {
			r.Underlays[u].Loads[i].finish(loads[i])
		}
	}
}

func (r *LoadResult) finish(l Load) {
	var kernel []Value
	for i := range r.Lanes {
		lane := &r.Lanes[i]
		if len(lane.Samples) == 0 {
			lane.Samples, lane.Values = []Sample{}, []Value{} // [] in JSON
			continue
		}
		for _, f := range l.Figures {
			lane.Values = append(lane.Values, f.value(lane.Samples))
		}
		if lane.Row == Kernel {
			kernel = lane.Values
		}
	}
	for i := range r.Lanes {
		for j := range r.Lanes[i].Values {
			if kernel != nil && kernel[j].Median > 0 {
				r.Lanes[i].Values[j].Ratio = r.Lanes[i].Values[j].Median / kernel[j].Median
			}
		}
	}
}

// Failures returns a line for everything that could not be measured.
func (r *Report) Failures() (lines []string) {
	for _, u := range r.Underlays {
		for _, e := range u.Errors {
			lines = append(lines, u.Title+": "+e)
		}
		for _, l := range u.Loads {
			for _, lane := range l.Lanes {
				if lane.Error != "" {
					lines = append(lines, fmt.Sprintf("%s, %s, %s: %s", u.Title, l.Title, lane.Title, lane.Error))
				}
			}
		}
	}
	return lines
}

// WriteJSON writes the report with every sample.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
