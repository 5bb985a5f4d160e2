// Package metrics shows the engine's counters to Prometheus and the daemon's
// health to whoever supervises it. No label is a MAC: their number has no bound.
package metrics

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"overtap/dataplane"
)

// Source is what the listener shows.
type Source struct {
	Version string
	Stats   func() dataplane.Stats
	Ready   func() bool
	// Reloads says whether the last reload succeeded, and when the last did that
	// succeeded; nil = there are none.
	Reloads func() (ok bool, at time.Time)
}

// NewServer returns the HTTP server of the metrics listener: /metrics, /healthz
// (the process answers) and /readyz (traffic flows).
func NewServer(s Source) *http.Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collector{s.Stats},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "overtap_build_info",
			Help:        "Always 1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": s.Version, "goversion": runtime.Version(), "arch": runtime.GOARCH},
		}, func() float64 { return 1 }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "overtap_ready",
			Help: "1 when every network forwards, else 0.",
		}, func() float64 {
			if s.Ready() {
				return 1
			}
			return 0
		}),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)

	if s.Reloads != nil {
		reg.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "overtap_config_last_reload_successful",
				Help: "1 when the last reading of the configuration succeeded, else 0.",
			}, func() float64 {
				if ok, _ := s.Reloads(); ok {
					return 1
				}
				return 0
			}),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "overtap_config_last_reload_success_timestamp_seconds",
				Help: "When the configuration was last read with success.",
			}, func() float64 {
				_, at := s.Reloads()
				return float64(at.UnixNano()) / 1e9
			}),
		)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// collector turns one copy of the counters into metrics at each scrape.
type collector struct {
	stats func() dataplane.Stats
}

// traffic is the four counters of a network or a peer.
type traffic struct{ txPackets, txBytes, rxPackets, rxBytes *prometheus.Desc }

func newTraffic(prefix, of string, labels []string) traffic {
	return traffic{
		txPackets: desc(prefix+"tx_packets_total", "Inner frames sent "+of+".", labels...),
		txBytes:   desc(prefix+"tx_bytes_total", "Bytes of inner frames sent "+of+".", labels...),
		rxPackets: desc(prefix+"rx_packets_total", "Inner frames received "+of+".", labels...),
		rxBytes:   desc(prefix+"rx_bytes_total", "Bytes of inner frames received "+of+".", labels...),
	}
}

var (
	networkTraffic = newTraffic("overtap_", "by network", []string{"network"})
	peerTraffic    = newTraffic("overtap_peer_", "by peer", []string{"network", "peer"})

	flooded       = desc("overtap_flooded_total", "Broadcast, unknown unicast and multicast frames replicated.", "network")
	suppressed    = desc("overtap_suppressed_total", "ARP requests and neighbour solicitations answered by this host, and not sent.", "network")
	reservedBits  = desc("overtap_reserved_set_total", "Frames taken with nonzero reserved bits in the VXLAN header.", "network")
	learnRefused  = desc("overtap_learn_refused_total", "Frames delivered without learning because the table is at its bound.", "network")
	learnMoved    = desc("overtap_learn_moved_total", "Learned MACs that changed peer.", "network")
	learnQuota    = desc("overtap_learn_quota_total", "Frames delivered without learning because their peer has its share of the table.", "network")
	learnBusy     = desc("overtap_learn_busy_total", "Frames delivered without learning because another worker was at the table.", "network")
	learnFrozen   = desc("overtap_learn_frozen_total", "Frames delivered without learning because their MAC is frozen.", "network")
	frozen        = desc("overtap_fdb_frozen", "MACs that moved too often and stay where they are for a while.", "network")
	answered      = desc("overtap_too_big_answered_total", "Senders of frames too big that were told so by ICMP.", "network")
	unreachable   = desc("overtap_unreachable_answered_total", "Senders of a tunnel's packets that were told by ICMP that these did not arrive.", "network")
	pathMTU       = desc("overtap_peer_pmtu_bytes", "Longest outer packet that reaches the peer; absent where nothing is known to be too long.", "network", "peer")
	peerUp        = desc("overtap_peer_up", "1 when the peer answers probes, else 0; absent where it is not asked.", "network", "peer")
	peerRTT       = desc("overtap_peer_probe_rtt_seconds", "Round trip of the last probe that was answered; absent when the peer does not answer.", "network", "peer")
	verifiedMTU   = desc("overtap_peer_verified_mtu_bytes", "Longest outer packet that a probe proved to reach the peer; absent while that is not known.", "network", "peer")
	probes        = desc("overtap_probes_received_total", "Probes received: requests and replies.", "network")
	probesRefused = desc("overtap_probes_refused_total", "Requests left without a reply because their peer asks too often.", "network")
	entries       = desc("overtap_fdb_entries", "Forwarding entries.", "network", "origin")
	entriesMax    = desc("overtap_fdb_entries_max", "Bound of learned forwarding entries.", "network")
	drops         = desc("overtap_drops_total", "Frames dropped, by reason; a reason is listed once it happened.", "network", "direction", "reason")
	socketDropped = desc("overtap_socket_dropped_total", "Datagrams that the kernel dropped at a full receive buffer.", "port")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends nothing: which metrics there are depends on what happened.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics of this moment.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	sum := func(t traffic, v dataplane.Traffic, labels ...string) {
		counter(t.txPackets, v.TxPackets, labels...)
		counter(t.txBytes, v.TxBytes, labels...)
		counter(t.rxPackets, v.RxPackets, labels...)
		counter(t.rxBytes, v.RxBytes, labels...)
	}

	s := c.stats()
	for _, n := range s.Networks {
		sum(networkTraffic, n.Traffic, n.Network)
		counter(flooded, n.Flooded, n.Network)
		counter(suppressed, n.Suppressed, n.Network)
		counter(reservedBits, n.ReservedBits, n.Network)
		counter(learnRefused, n.LearnRefused, n.Network)
		counter(learnMoved, n.LearnMoved, n.Network)
		counter(learnQuota, n.LearnQuota, n.Network)
		counter(learnFrozen, n.LearnFrozen, n.Network)
		counter(learnBusy, n.LearnBusy, n.Network)
		gauge(frozen, n.Frozen, n.Network)
		counter(answered, n.Answered, n.Network)
		counter(unreachable, n.UnreachableAnswered, n.Network)
		counter(probes, n.ProbesReceived, n.Network)
		counter(probesRefused, n.ProbesRefused, n.Network)
		gauge(entries, n.EntriesLearned, n.Network, "learned")
		gauge(entries, n.Entries-n.EntriesLearned, n.Network, "static")
		gauge(entriesMax, n.EntriesMax, n.Network)
	}
	for _, p := range s.Peers {
		sum(peerTraffic, p.Traffic, p.Network, p.Peer.String())
		if p.PathMTU != 0 {
			gauge(pathMTU, int(p.PathMTU), p.Network, p.Peer.String())
		}
		if p.Probe != nil && (p.Probe.Answered || !p.UnansweredSince.IsZero()) {
			collectProbe(ch, p)
		}
	}
	for _, d := range s.Drops {
		counter(drops, d.Count, d.Network, d.Direction.String(), d.Reason.String())
	}
	for _, w := range s.Wire {
		counter(socketDropped, w.SocketDropped, strconv.Itoa(int(w.Port)))
	}
}

// collectProbe sends what probes tell of a peer that is asked.
func collectProbe(ch chan<- prometheus.Metric, p dataplane.PeerStats) {
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, p.Network, p.Peer.String())
	}
	up := 0.0
	if p.Alive {
		up = 1
		gauge(peerRTT, p.RTT)
	}
	gauge(peerUp, up)
	if p.VerifiedMTU != 0 {
		gauge(verifiedMTU, float64(p.VerifiedMTU))
	}
}
