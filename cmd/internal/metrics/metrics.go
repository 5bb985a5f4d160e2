// Package metrics shows the engine's counters to Prometheus and the daemon's
// health to what supervises it. No label is a MAC: their number has no bound.
package metrics

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

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
	// Cluster says how many members of the cluster are alive, and when the record of
	// one was fetched last; in = false or nil: there is no cluster.
	Cluster func() (alive int, synced time.Time, in bool)
}

// Anyone who reaches the listener may ask: these bound what that costs the daemon.
const (
	maxConns    = 64 // open connections; others wait, and take no descriptor
	maxScrapes  = 4  // answers of /metrics under way; another is 503
	idleTimeout = 10 * time.Second
)

// Limited bounds the connections that l accepts at a time.
func Limited(l net.Listener) net.Listener { return netutil.LimitListener(l, maxConns) }

// NewServer returns the HTTP server of the metrics listener: /metrics, /healthz
// (the process answers) and /readyz (traffic flows).
func NewServer(s Source) *http.Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
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
	if s.Cluster != nil {
		if _, _, in := s.Cluster(); in {
			reg.MustRegister(
				prometheus.NewGaugeFunc(prometheus.GaugeOpts{
					Name: "overtap_cluster_members",
					Help: "Hosts of the cluster that are alive, this one among them.",
				}, func() float64 {
					alive, _, _ := s.Cluster()
					return float64(alive)
				}),
				prometheus.NewGaugeFunc(prometheus.GaugeOpts{
					Name: "overtap_cluster_last_sync_seconds",
					Help: "Unix time when the record of another member was fetched last; 0 = never.",
				}, func() float64 {
					_, at, _ := s.Cluster()
					if at.IsZero() {
						return 0
					}
					return float64(at.UnixNano()) / 1e9
				}),
			)
		}
	}
	mux := http.NewServeMux()
	// The bound of promhttp is one of a handler, and each scrape has its own.
	scrapes := make(chan struct{}, maxScrapes)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		select {
		case scrapes <- struct{}{}:
			defer func() { <-scrapes }()
		default:
			http.Error(w, fmt.Sprintf("%d scrapes are being answered: try again later", maxScrapes), http.StatusServiceUnavailable)
			return
		}
		counters := prometheus.NewRegistry()
		counters.MustRegister(collector{s.Stats, named(r.URL.Query()["peer"])})
		promhttp.HandlerFor(prometheus.Gatherers{reg, counters}, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
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
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
	}
}

// MaxPeers is of how many peers one scrape shows metrics, each of them counted
// once a network: listed ones before those learned, by network and address. That
// bounds it to some 90,000 lines of 6 MB.
const MaxPeers = 10_000

// collector turns one copy of the counters into metrics for one scrape.
type collector struct {
	stats func() dataplane.Stats
	named map[netip.Addr]bool // peers that are shown whether or not there is traffic
}

// named are the peers that a scrape names; what is no address names none.
func named(values []string) map[netip.Addr]bool {
	peers := make(map[netip.Addr]bool, len(values))
	for _, v := range values {
		if a, err := netip.ParseAddr(v); err == nil {
			peers[a] = true
		}
	}
	return peers
}

// peers picks the peers that a scrape shows: those that are named, and of the
// others those with traffic, of which something was heard or whose path is narrow.
// A peer that never spoke is counted by its state alone. The second result is how
// many of them had no place.
func (c collector) peers(all []dataplane.PeerStats) (shown []dataplane.PeerStats, hidden int) {
	rank := func(p *dataplane.PeerStats) int {
		switch {
		case c.named[p.Peer]:
			return 0
		case p.Traffic == dataplane.Traffic{} && p.LastHeard.IsZero() && p.PathMTU == 0:
			return -1
		case p.Learned:
			return 2
		}
		return 1
	}
	for want := range 3 {
		for i := range all {
			switch p := &all[i]; {
			case rank(p) != want:
			case len(shown) == MaxPeers:
				hidden++
			default:
				shown = append(shown, *p)
			}
		}
	}
	return shown, hidden
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
	unlisted      = desc("overtap_unlisted_sources_total", "Frames delivered although no entry of a network that learns nothing has their source behind their peer.", "network")
	frozen        = desc("overtap_fdb_frozen", "MACs that moved too often and stay where they are for a while.", "network")
	answered      = desc("overtap_too_big_answered_total", "Senders of frames too big that were sent an ICMP error.", "network")
	fragmented    = desc("overtap_fragmented_total", "Packets without DF that were fragmented before they were encapsulated, as the path is too narrow.", "network")
	clearedDF     = desc("overtap_cleared_df_total", "Packets that left in outer packets without DF, as the path takes less than their senders go down to.", "network")
	unreachable   = desc("overtap_unreachable_answered_total", "Senders of a tunnel's packets that were sent an ICMP error that these did not arrive.", "network")
	pathMTU       = desc("overtap_peer_pmtu_bytes", "Longest outer packet that reaches the peer; absent where nothing is known to be too long.", "network", "peer")
	peerUp        = desc("overtap_peer_up", "1 when the peer answers probes, 0 when it did and does not any more; absent where it never answered one.", "network", "peer")
	peerHeard     = desc("overtap_peer_last_heard_timestamp_seconds", "When a frame or a probe of the peer was admitted last; absent when none ever was.", "network", "peer")
	peerStates    = desc("overtap_peers", "Peers by how they fare: alive, heard, silent, new, never (heard) or lost.", "network", "state")
	peersHidden   = desc("overtap_peers_not_shown", "Peers that have metrics of their own, but no place among those of one scrape.")
	peerRTT       = desc("overtap_peer_probe_rtt_seconds", "Round trip of the last probe that was answered; absent when the peer does not answer.", "network", "peer")
	verifiedMTU   = desc("overtap_peer_verified_mtu_bytes", "Longest outer packet that a probe proved to reach the peer; absent while that is not known.", "network", "peer")
	probes        = desc("overtap_probes_received_total", "Probes received: requests and replies.", "network")
	probesRefused = desc("overtap_probes_refused_total", "Requests left without a reply because their peer asks too often.", "network")
	entries       = desc("overtap_fdb_entries", "Forwarding entries.", "network", "origin")
	entriesMax    = desc("overtap_fdb_entries_max", "Bound of learned forwarding entries.", "network")
	drops         = desc("overtap_drops_total", "Frames dropped, by reason; a reason is listed once it happened.", "network", "direction", "reason")
	checksums     = desc("overtap_udp_checksum_errors_total", "Datagrams to any UDP socket of this host that the kernel refused because their checksum was wrong, or over IPv6 zero where that is not taken.")
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
		counter(unlisted, n.UnlistedSources, n.Network)
		gauge(frozen, n.Frozen, n.Network)
		counter(answered, n.Answered, n.Network)
		counter(fragmented, n.Fragmented, n.Network)
		counter(clearedDF, n.ClearedDF, n.Network)
		counter(unreachable, n.UnreachableAnswered, n.Network)
		counter(probes, n.ProbesReceived, n.Network)
		counter(probesRefused, n.ProbesRefused, n.Network)
		gauge(entries, n.EntriesLearned, n.Network, "learned")
		gauge(entries, n.Entries-n.EntriesLearned, n.Network, "static")
		gauge(entriesMax, n.EntriesMax, n.Network)
	}
	peers, hidden := c.peers(s.Peers)
	gauge(peersHidden, hidden)
	collectStates(s.Peers, gauge)
	for _, p := range peers {
		sum(peerTraffic, p.Traffic, p.Network, p.Peer.String())
		if p.PathMTU != 0 {
			gauge(pathMTU, int(p.PathMTU), p.Network, p.Peer.String())
		}
		if !p.LastHeard.IsZero() {
			gauge(peerHeard, int(p.LastHeard.Unix()), p.Network, p.Peer.String())
		}
		if p.Probe != nil && p.Probe.Answered {
			collectProbe(ch, p)
		}
	}
	for _, d := range s.Drops {
		counter(drops, d.Count, d.Network, d.Direction.String(), d.Reason.String())
	}
	counter(checksums, s.ChecksumErrors)
	for _, w := range s.Wire {
		counter(socketDropped, w.SocketDropped, strconv.Itoa(int(w.Port)))
	}
}

// collectStates sends how many peers of each network are in each state that
// some are in.
func collectStates(all []dataplane.PeerStats, gauge func(*prometheus.Desc, int, ...string)) {
	type key struct {
		network string
		state   dataplane.PeerState
	}
	count := make(map[key]int)
	for i := range all {
		count[key{all[i].Network, all[i].State}]++
	}
	for k, n := range count {
		gauge(peerStates, n, k.network, string(k.state))
	}
}

// collectProbe sends what probes show of a peer that ever answered one.
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
