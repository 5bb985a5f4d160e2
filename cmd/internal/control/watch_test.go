package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
)

// Changes arrive in order while the daemon goes on, and it hears when the client
// has had enough.
func TestWatchFDB(t *testing.T) {
	d := &fake{ended: make(chan error, 1)}
	socket, _ := serve(t, d)
	ready, next := false, uint64(0)
	enough := errors.New("enough")
	err := NewClient(socket).WatchFDB(t.Context(), "blue", func() { ready = true }, func(c *dataplane.FDBChange, lost uint64) error {
		switch {
		case c == nil && lost != next:
			t.Errorf("%d lost, want %d", lost, next)
		case c != nil && (uint64(c.MAC) != next || c.Network != "blue" || c.Event != "learn"):
			t.Errorf("change %d is %+v", next, c)
		case c != nil:
			if next++; next == 20 {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) || !ready {
		t.Errorf("ready=%t, %v", ready, err)
	}
	select {
	case <-d.ended:
	case <-time.After(5 * time.Second):
		t.Error("the daemon goes on without a client")
	}
	if err := NewClient(socket).WatchFDB(t.Context(), "green", nil, nil); err == nil || !strings.Contains(err.Error(), "no such network") {
		t.Errorf("another network: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := NewClient(socket).WatchFDB(ctx, "", func() {}, func(*dataplane.FDBChange, uint64) error { return nil }); err != nil {
		t.Errorf("given up: %v", err)
	}
}

// A client that never reads holds the daemon's end up no longer than a moment.
func TestWatchNeverRead(t *testing.T) {
	d := &fake{ended: make(chan error, 1)}
	socket, stop := serve(t, d)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(http.MethodGet + " " + pathWatch + " HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if took := stop(); took > 10*time.Second {
		t.Errorf("the daemon's end took %v", took)
	}
}
