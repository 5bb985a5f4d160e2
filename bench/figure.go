package bench

import (
	"cmp"
	"slices"
	"time"
)

// Figure is one number that a load is judged by.
type Figure struct {
	Name          string
	Unit          string
	LowerIsBetter bool
	of            func(Sample) float64
}

// The figures that loads have.
var (
	tcpRate = Figure{
		Name: "TCP", Unit: "Gbit/s",
		of: func(s Sample) float64 { return s.TCP.BitsPerSecond / 1e9 },
	}
	udpRate = Figure{
		Name: "UDP received", Unit: "kpps",
		of: func(s Sample) float64 { return s.UDP.ReceivedPerSecond / 1e3 },
	}
	rttMedian = Figure{
		Name: "half RTT, median", Unit: "µs", LowerIsBetter: true,
		of: func(s Sample) float64 { return micros(s.RTT.HalfMedian) },
	}
	rttP99 = Figure{
		Name: "half RTT, p99", Unit: "µs", LowerIsBetter: true,
		of: func(s Sample) float64 { return micros(s.RTT.HalfP99) },
	}
)

// daemonPerPacket is of all daemons of the row together; 0 where there is none.
var daemonPerPacket = Figure{
	Name: "daemon CPU per packet", Unit: "µs", LowerIsBetter: true,
	of: func(s Sample) float64 {
		if s.UDP.Received == 0 {
			return 0
		}
		return s.Cost.DaemonSeconds * 1e6 / float64(s.UDP.Received)
	},
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// Value is a figure over the turns of one lane.
type Value struct {
	Name          string  `json:"name"`
	Unit          string  `json:"unit"`
	LowerIsBetter bool    `json:"lower_is_better,omitempty"`
	Median        float64 `json:"median"`
	Min           float64 `json:"min"`
	Max           float64 `json:"max"`
	// Ratio is the median over that of the kernel's row in the same run; 0 =
	// there is none.
	Ratio float64 `json:"ratio_to_kernel,omitempty"`
	// Turn is the place among the samples of the one with the median: counts
	// and costs that stand beside the figure are that turn's.
	Turn int `json:"turn"`
}

// value returns the figure over the samples, at least one. Of an even number
// the lower of the two in the middle is the median: it was measured.
func (f Figure) value(samples []Sample) Value {
	order := make([]int, len(samples))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(f.of(samples[a]), f.of(samples[b])) })
	turn := order[(len(order)-1)/2]
	return Value{
		Name: f.Name, Unit: f.Unit, LowerIsBetter: f.LowerIsBetter,
		Median: f.of(samples[turn]),
		Min:    f.of(samples[order[0]]),
		Max:    f.of(samples[order[len(order)-1]]),
		Turn:   turn,
	}
}
