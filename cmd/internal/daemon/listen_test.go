package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"overtap/cmd/internal/config"
)

// A metrics listener that others than this host reach is warned of, and no other.
func TestMetricsBeyondLoopback(t *testing.T) {
	for address, warned := range map[string]bool{
		"127.0.0.1:0": false, "localhost:0": false, "0.0.0.0:0": true, ":0": true,
	} {
		var log bytes.Buffer
		d := newDaemon(Options{
			Config: &config.Config{Control: config.Control{Metrics: address}},
			Log:    slog.New(slog.NewTextHandler(&log, nil)),
		})
		l, err := d.listenMetrics()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := strings.Contains(log.String(), "the metrics are open"); got != warned {
			t.Errorf("%s: warned %v, want %v: %s", address, got, warned, &log)
		}
	}
}
