package top

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// source is a daemon that goes on a second with each sample.
func source() Source {
	n := 0
	return Source{
		Sample: func(context.Context) (control.Status, dataplane.Stats, error) {
			n++
			s := second(n)
			return s.status, s.stats, nil
		},
		Page: func(_ context.Context, q control.FDBQuery) (control.FDBPage, error) { return q.Page(table120) },
	}
}

func TestOnce(t *testing.T) {
	for view, want := range map[View][]string{
		Networks: {"NETWORK  TX BIT/S", "\nblue", "\ngreen", "\nred"},
		Peers:    {"2001:db8:1234:5678:9abc:def0:1234:5678", "192.0.2.2"},
		Drops:    {"too_big", "larger than the network's MTU or the path's\n"},
		FDB:      {"02:42:0a:00:00:00 192.0.2.2       static", "frozen", "the first 100 of 120 entries\n"},
	} {
		var b bytes.Buffer
		o := Options{Source: source(), Interval: MinInterval, View: view}
		if err := o.Once(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%s: no %q in\n%s", view, w, &b)
			}
		}
		if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), historyTitle) || strings.Contains(b.String(), " \n") {
			t.Errorf("%s: %q", view, &b)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := (Options{Source: source(), Interval: MinInterval}).JSON(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	var got Rates
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Seconds < 0.1 || len(got.Networks) != 3 || got.Networks[0].TxBits <= 0 || len(got.Peers) != 3 || len(got.Drops) != 3 {
		t.Errorf("%s", &b)
	}
}

func TestOnceFails(t *testing.T) {
	gone := errors.New("no overtap daemon answers")
	o := Options{Source: source(), Interval: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Once(ctx, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	o.Sample = func(context.Context) (control.Status, dataplane.Stats, error) {
		return control.Status{}, dataplane.Stats{}, gone
	}
	if err := o.Once(t.Context(), &bytes.Buffer{}); !errors.Is(err, gone) {
		t.Error(err)
	}
}
