package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"overtap/dataplane"
)

// fullPage is the page of a daemon of which every metric is there, with every
// reason of drops.
func fullPage(t *testing.T) string {
	t.Helper()
	all := dataplane.Stats{
		Networks: []dataplane.NetworkStats{{Network: "blue", Kind: dataplane.KindVXLAN}, {Network: "green", Kind: dataplane.KindIPIP}},
		Peers: []dataplane.PeerStats{{Network: "blue", PathMTU: 1400, State: dataplane.PeerAlive, LastHeard: time.Unix(1, 0),
			Probe: &dataplane.Probe{Alive: true, Answered: true, RTT: 0.1, VerifiedMTU: 1400, FullMTU: 1500}}},
		Wire: []dataplane.ConnStats{{Port: 4789}, {}},
	}
	for _, d := range dataplane.Drops() {
		all.Drops = append(all.Drops, dataplane.DropStats{Network: "blue", Reason: d, Count: 1})
	}
	_, page := get(t, Source{
		Version: "v1", Stats: func() dataplane.Stats { return all }, Ready: func() bool { return true },
		Reloads: func() (bool, time.Time) { return true, time.Unix(1, 0) },
		Cluster: func() (int, time.Time, bool) { return 3, time.Unix(1, 0), true },
	}, "/metrics")
	return page
}

// families are the metrics of a page.
func families(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The page is one that Prometheus reads, and its checker has nothing to say of
// the names, types and texts on it. No label's value is a MAC.
func TestPageIsSound(t *testing.T) {
	page := fullPage(t)
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "overtap_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	ours := 0
	for name, f := range families(t, page) {
		if !strings.HasPrefix(name, "overtap_") {
			continue
		}
		ours++
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if strings.Count(l.GetValue(), ":") == 5 {
					t.Errorf("%s{%s=%q}", name, l.GetName(), l.GetValue())
				}
			}
		}
	}
	if ours < 20 {
		t.Errorf("only %d metrics", ours)
	}
}
