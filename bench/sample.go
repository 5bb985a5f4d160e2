package bench

import (
	"time"

	"overtap/bench/traffic"
)

// Sample is what one turn of a load came to. A load has the parts that it sends.
type Sample struct {
	TCP  *TCPSample `json:"tcp,omitempty"`
	UDP  *UDPSample `json:"udp,omitempty"`
	RTT  *RTTSample `json:"rtt,omitempty"`
	Cost Cost       `json:"cost"`
}

// TCPSample is what became of the TCP flows, all together.
type TCPSample struct {
	BitsPerSecond float64 `json:"bits_per_second"` // of payload, received
	Counts                // bytes of payload
	Retransmits   int64   `json:"retransmits"` // segments
}

// UDPSample is what became of the UDP datagrams.
type UDPSample struct {
	OfferedPerSecond  float64 `json:"offered_per_second"`
	ReceivedPerSecond float64 `json:"received_per_second"`
	Counts                    // datagrams
	// Overflowed are those of the lost that reached the receiver's own socket
	// and found it full: the load generator was too slow, not the tunnel.
	Overflowed int64 `json:"overflowed"`
	Bytes      int64 `json:"bytes"` // of payload, received
}

// RTTSample is what became of the round trips. A half is what one way takes.
type RTTSample struct {
	HalfMedian time.Duration `json:"half_median_ns"`
	HalfP99    time.Duration `json:"half_p99_ns"`
	Counts                   // round trips
}

// Counts are what was offered and what became of it, so that Offered is Received
// and Lost.
type Counts struct {
	Offered  int64 `json:"offered"`
	Received int64 `json:"received"`
	Lost     int64 `json:"lost"`
}

// LossShare returns which part was lost, 0 to 1.
func (c Counts) LossShare() float64 {
	if c.Offered <= 0 {
		return 0
	}
	return float64(c.Lost) / float64(c.Offered)
}

// Cost is what a turn took of the machine, the load's generators included.
type Cost struct {
	MachineSeconds float64 `json:"machine_cpu_seconds"`    // of all CPUs
	DaemonSeconds  float64 `json:"daemon_cpu_seconds"`     // of the row's overtap daemons
	PeakRSS        int64   `json:"daemon_peak_rss_bytes"`  // of the larger daemon; 0 = none
	PerGB          float64 `json:"machine_cpu_s_per_gb"`   // CPU seconds per 10⁹ bytes of payload received; 0 = none came
	DaemonPerGB    float64 `json:"daemon_cpu_s_per_gb"`    // the same of the daemons
	WallSeconds    float64 `json:"wall_seconds,omitempty"` // of the turn, with its start and end
}

// payload returns how many bytes of payload arrived; 0 for round trips, whose
// bytes are not what they are about.
func (s *Sample) payload() int64 {
	var n int64
	if s.TCP != nil {
		n += s.TCP.Received
	}
	if s.UDP != nil {
		n += s.UDP.Bytes
	}
	return n
}

// charge adds the cost.
func (s *Sample) charge(c Cost, wall time.Duration) {
	if gb := float64(s.payload()) / 1e9; gb > 0 {
		c.PerGB, c.DaemonPerGB = c.MachineSeconds/gb, c.DaemonSeconds/gb
	}
	c.WallSeconds = wall.Seconds()
	s.Cost = c
}

// tcpSample sums runs that went on at the same time.
func tcpSample(rs ...traffic.TCPResult) *TCPSample {
	s := &TCPSample{}
	for _, r := range rs {
		s.BitsPerSecond += r.BitsPerSecond()
		s.Retransmits += r.Retransmits
		// A run whose streams do not arrive whole is an error of its own.
		s.Offered += r.Bytes
		s.Received += r.Bytes
	}
	return s
}

func udpSample(r traffic.UDPResult) *UDPSample {
	return &UDPSample{
		OfferedPerSecond:  r.OfferedPerSecond(),
		ReceivedPerSecond: r.PacketsPerSecond(),
		Counts:            Counts{Offered: r.Offered, Received: r.Received, Lost: r.Lost},
		Overflowed:        r.Overflowed,
		Bytes:             r.Bytes,
	}
}

func rttSample(r traffic.LatencyResult) *RTTSample {
	return &RTTSample{
		HalfMedian: r.Median / 2,
		HalfP99:    r.P99 / 2,
		Counts:     Counts{Offered: int64(r.Sent), Received: int64(r.Sent - r.Lost), Lost: int64(r.Lost)},
	}
}

func sliceTCP(bytes int64, d time.Duration) Sample {
	return Sample{TCP: &TCPSample{BitsPerSecond: float64(bytes) * 8 / d.Seconds()}}
}

func sliceUDP(datagrams int64, d time.Duration) Sample {
	return Sample{UDP: &UDPSample{ReceivedPerSecond: float64(datagrams) / d.Seconds()}}
}
