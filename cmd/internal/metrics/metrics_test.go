package metrics

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"overtap/dataplane"
)

func get(t *testing.T, s Source, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	NewServer(s).Handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestMetrics(t *testing.T) {
	traffic := dataplane.Traffic{TxPackets: 1, TxBytes: 2, RxPackets: 3, RxBytes: 4}
	s := Source{
		Version: "v1.2.3",
		Ready:   func() bool { return true },
		Stats: func() dataplane.Stats {
			return dataplane.Stats{
				Networks: []dataplane.NetworkStats{{
					Network: "blue", Traffic: traffic, Flooded: 5, Suppressed: 14, ReservedBits: 6,
					Entries: 10, EntriesLearned: 7, EntriesMax: 65536, LearnRefused: 8, LearnMoved: 9, Answered: 15,
					ProbesReceived: 16, ProbesRefused: 17,
				}},
				Peers: []dataplane.PeerStats{
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::2"), State: "heard", Traffic: traffic, LastHeard: time.Unix(1234, 0)},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::3"), State: "silent", PathMTU: 1400},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::4"), State: "alive", LastHeard: time.Unix(1234, 0), Probe: &dataplane.Probe{Alive: true, Answered: true, RTT: 0.25, VerifiedMTU: 1500}},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::5"), State: "lost", LastHeard: time.Unix(1, 0), Probe: &dataplane.Probe{Answered: true, UnansweredSince: time.Unix(1, 0)}},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::6"), State: "heard", LastHeard: time.Unix(1, 0), Probe: &dataplane.Probe{UnansweredSince: time.Unix(1, 0)}}, // a kernel device
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::7"), State: "never"},
				},
				Drops: []dataplane.DropStats{
					{Direction: dataplane.Inbound, Reason: dataplane.DropVXLANVNINotFound, Count: 11},
					{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropTooBig, Count: 12},
				},
				Wire: []dataplane.ConnStats{{Port: 4789, SocketDropped: 13}},
			}
		},
	}
	code, body := get(t, s, "/metrics")
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	for _, want := range []string{
		`overtap_tx_packets_total{network="blue"} 1`,
		`overtap_tx_bytes_total{network="blue"} 2`,
		`overtap_rx_packets_total{network="blue"} 3`,
		`overtap_rx_bytes_total{network="blue"} 4`,
		`overtap_peer_tx_packets_total{network="blue",peer="2001:db8::2"} 1`,
		`overtap_peer_rx_bytes_total{network="blue",peer="2001:db8::2"} 4`,
		`overtap_flooded_total{network="blue"} 5`,
		`overtap_reserved_set_total{network="blue"} 6`,
		`overtap_suppressed_total{network="blue"} 14`,
		`overtap_fdb_entries{network="blue",origin="learned"} 7`,
		`overtap_fdb_entries{network="blue",origin="static"} 3`,
		`overtap_fdb_entries_max{network="blue"} 65536`,
		`overtap_learn_refused_total{network="blue"} 8`,
		`overtap_learn_moved_total{network="blue"} 9`,
		`overtap_too_big_answered_total{network="blue"} 15`,
		`overtap_peer_pmtu_bytes{network="blue",peer="2001:db8::3"} 1400`,
		`overtap_peer_up{network="blue",peer="2001:db8::4"} 1`,
		`overtap_peer_probe_rtt_seconds{network="blue",peer="2001:db8::4"} 0.25`,
		`overtap_peer_verified_mtu_bytes{network="blue",peer="2001:db8::4"} 1500`,
		`overtap_peer_up{network="blue",peer="2001:db8::5"} 0`,
		`overtap_peer_last_heard_timestamp_seconds{network="blue",peer="2001:db8::2"} 1234`,
		`overtap_peers{network="blue",state="heard"} 2`,
		`overtap_peers{network="blue",state="never"} 1`,
		`overtap_peers_not_shown 0`,
		`overtap_probes_received_total{network="blue"} 16`,
		`overtap_probes_refused_total{network="blue"} 17`,
		`overtap_drops_total{direction="inbound",network="",reason="vxlan_vni_not_found"} 11`,
		`overtap_drops_total{direction="outbound",network="blue",reason="too_big"} 12`,
		`overtap_socket_dropped_total{port="4789"} 13`,
		`overtap_ready 1`,
		`version="v1.2.3"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, `overtap_peer_pmtu_bytes{network="blue",peer="2001:db8::2"}`) {
		t.Error("a path MTU of a peer that has none")
	}
	for _, none := range []string{`overtap_peer_up{network="blue",peer="2001:db8::3"}`, `overtap_peer_up{network="blue",peer="2001:db8::6"}`, `overtap_peer_probe_rtt_seconds{network="blue",peer="2001:db8::5"}`, `peer="2001:db8::7"`} {
		if strings.Contains(body, none) {
			t.Errorf("%s of a peer that does not answer, or is not asked", none)
		}
	}
}

// Too many peers to list them all: those that speak are shown
// up to a bound, listed ones first, and any that is named.
func TestManyPeers(t *testing.T) {
	const networks, each = 10, 10_000
	var stats dataplane.Stats
	for n := range networks {
		name := fmt.Sprint("net", n)
		for i := range each {
			p := dataplane.PeerStats{Network: name, Peer: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), State: dataplane.PeerNever}
			if i%5 == 0 { // 20,000 of them
				p.State, p.Learned, p.RxPackets, p.LastHeard = dataplane.PeerHeard, i%10 != 0, 1, time.Unix(1, 0)
			}
			stats.Peers = append(stats.Peers, p)
		}
	}
	s := Source{Ready: func() bool { return true }, Stats: func() dataplane.Stats { return stats }}
	code, body := get(t, s, "/metrics?peer=10.0.0.7&peer=10.0.39.15") // one that says nothing, and the last
	if lines := strings.Count(body, "\n"); code != 200 || lines < MaxPeers || lines > 6*MaxPeers || len(body) > 6<<20 {
		t.Errorf("%d, %d lines, %d bytes", code, lines, len(body))
	}
	if n := strings.Count(body, "overtap_peer_rx_packets_total{"); n != MaxPeers {
		t.Errorf("%d peers, want %d", n, MaxPeers)
	}
	for _, want := range []string{
		`overtap_peer_rx_packets_total{network="net9",peer="10.0.0.7"} 0`,
		`overtap_peer_rx_packets_total{network="net9",peer="10.0.39.15"} 0`,
		`overtap_peer_rx_packets_total{network="net8",peer="10.0.0.0"} 1`,
		`overtap_peers{network="net9",state="never"} 8000`,
		`overtap_peers_not_shown 10020`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, `peer="10.0.0.5"`) {
		t.Error("a learned peer has the place of a listed one")
	}
	if _, body := get(t, s, "/metrics"); strings.Contains(body, `peer="10.0.0.7"`) {
		t.Error("a peer that says nothing is shown, though not named")
	}
}

func TestHealth(t *testing.T) {
	ready := false
	s := Source{Ready: func() bool { return ready }, Stats: func() dataplane.Stats { return dataplane.Stats{} }}
	for _, tc := range []struct {
		ready bool
		path  string
		code  int
	}{
		{false, "/healthz", 200}, {false, "/readyz", 503}, {true, "/healthz", 200}, {true, "/readyz", 200},
		{true, "/", 404},
	} {
		ready = tc.ready
		if code, body := get(t, s, tc.path); code != tc.code {
			t.Errorf("%s, ready %t: %d %s", tc.path, tc.ready, code, body)
		}
	}
}

// However many connect and say nothing, few connections are open at a time, and none
// for long.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(Source{Ready: func() bool { return true }, Stats: func() dataplane.Stats { return dataplane.Stats{} }})
	if srv.IdleTimeout > 10*time.Second || srv.ReadHeaderTimeout > 10*time.Second || srv.ReadTimeout > 10*time.Second {
		t.Errorf("idle %v, headers %v, request %v, want at most 10s", srv.IdleTimeout, srv.ReadHeaderTimeout, srv.ReadTimeout)
	}
	counted := &countingListener{Listener: l, full: make(chan struct{}, 1)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(Limited(counted)) }()
	defer func() {
		srv.Close()
		<-served
	}()
	var conns []net.Conn
	for range 3 * maxConns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	<-counted.full
	for _, c := range conns {
		c.Close()
	}
	// A client that comes when they have gone is answered, and more were never open.
	resp, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n := counted.most.Load(); resp.StatusCode != http.StatusOK || n != maxConns {
		t.Errorf("%s; %d connections were open at a time, want %d", resp.Status, n, maxConns)
	}
}

// countingListener counts the connections that it has accepted and that are open.
type countingListener struct {
	net.Listener
	open, most atomic.Int32
	full       chan struct{}
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if n := l.open.Add(1); n > l.most.Load() {
		l.most.Store(n)
		if n == maxConns {
			l.full <- struct{}{}
		}
	}
	return &countedConn{Conn: c, l: l}, nil
}

type countedConn struct {
	net.Conn
	l    *countingListener
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

// A scrape beyond those that are answered at a time is refused, and takes no copy of
// the counters.
func TestScrapesAreBounded(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	h := NewServer(Source{
		Ready: func() bool { return true },
		Stats: func() dataplane.Stats {
			asked <- struct{}{}
			<-answer
			return dataplane.Stats{}
		},
	}).Handler
	scrape := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Code
	}
	codes := make(chan int)
	begin := func() { go func() { codes <- scrape() }() }
	for range maxScrapes {
		begin()
		<-asked
	}
	begin()
	select {
	case code := <-codes:
		if code != http.StatusServiceUnavailable {
			t.Errorf("one scrape more than %d: %d, want 503", maxScrapes, code)
		}
	case <-asked:
		t.Fatalf("one scrape more than %d is answered", maxScrapes)
	}
	close(answer)
	for range maxScrapes {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a scrape within the bound: %d, want 200", code)
		}
	}
	begin()
	<-asked
	if code := <-codes; code != http.StatusOK {
		t.Errorf("a scrape after those: %d, want 200", code)
	}
}
