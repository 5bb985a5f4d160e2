package metrics

import (
	"net/http/httptest"
	"net/netip"
	"strings"
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
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::2"), Traffic: traffic},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::3"), PathMTU: 1400},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::4"), Probe: &dataplane.Probe{Alive: true, Answered: true, RTT: 0.25, VerifiedMTU: 1500}},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::5"), Probe: &dataplane.Probe{UnansweredSince: time.Unix(1, 0)}},
					{Network: "blue", Peer: netip.MustParseAddr("2001:db8::6"), Probe: &dataplane.Probe{}}, // not asked yet
				},
				Drops: []dataplane.DropStats{
					{Direction: dataplane.Inbound, Reason: dataplane.DropVXLANVNINotFound, Count: 11},
					{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropTooBig, Count: 12},
				},
				Wire: []dataplane.WireStats{{Port: 4789, SocketDropped: 13}},
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
	for _, none := range []string{`overtap_peer_up{network="blue",peer="2001:db8::3"}`, `overtap_peer_up{network="blue",peer="2001:db8::6"}`, `overtap_peer_probe_rtt_seconds{network="blue",peer="2001:db8::5"}`} {
		if strings.Contains(body, none) {
			t.Errorf("%s of a peer that does not answer, or is not asked", none)
		}
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
