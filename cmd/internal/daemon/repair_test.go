package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// A deleted TAP is opened anew and put on its bridge again, with the command
// line's entries, and the log says so once.
func TestDeviceLost(t *testing.T) {
	underlay(t)
	r, o := prepare(t, twoNetworks)
	start(t, r, o)
	if err := r.client.AddFDB(t.Context(), control.Entry{Network: "blue", MAC: 0x020000000001, Peer: addr("192.0.2.3")}); err != nil {
		t.Fatal(err)
	}
	r.engine.lose("blue", "blue")
	eventually(t, "the repair", func() bool { return strings.Contains(r.log.String(), "opened anew") })
	tap, err := netlink.LinkByName("blue")
	if err != nil {
		t.Fatal(err)
	}
	br, err := netlink.LinkByName("br-blue")
	if err != nil || tap.Attrs().MasterIndex != br.Attrs().Index {
		t.Errorf("the new TAP is no port of the bridge: %v", err)
	}
	if e, _ := r.engine.entries("blue"); len(e) != 2 {
		t.Errorf("entries after the repair: %v", e)
	}
	if s, err := r.client.Status(t.Context()); err != nil || !s.Ready {
		t.Errorf("not ready after the repair: %v", err)
	}
	if n := strings.Count(r.log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, r.log)
	}
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}

// runQuick is Run with a backoff that suits a test.
func quick(t *testing.T, networks string) (*running, *daemon) {
	t.Helper()
	r, o := prepare(t, networks)
	d := newDaemon(o)
	d.engine.set(r.engine)
	d.closed, d.backoff = false, 10*time.Millisecond
	var err error
	if d.base, err = o.Config.Desired(1500); err != nil {
		t.Fatal(err)
	}
	return r, d
}

// A network that cannot be repaired ends the daemon with the reason, after
// five tries that take longer and longer; meanwhile it stays out of every
// other Apply.
func TestRepairFails(t *testing.T) {
	r, d := quick(t, twoNetworks)
	tries := 0
	r.engine.refuse = func(desired dataplane.Desired) error {
		if len(desired.Networks) == 2 {
			tries++
			return errors.New("no TAP to be had")
		}
		return nil
	}
	r.engine.taps["red"] = nil // stands already
	begin := time.Now()
	err := d.repair(t.Context(), dataplane.Event{Network: "blue"})
	if err == nil || !strings.Contains(err.Error(), "network blue") || !strings.Contains(err.Error(), "failed 5 times") ||
		!strings.Contains(err.Error(), "no TAP to be had") {
		t.Errorf("error: %v", err)
	}
	if tries != repairs {
		t.Errorf("%d tries", tries)
	}
	if took, least := time.Since(begin), (1+2+4+8)*d.backoff; took < least {
		t.Errorf("took %v, want at least %v", took, least)
	}
	if n := d.desired().Networks; len(n) != 1 || n[0].Name != "red" {
		t.Errorf("desired after the failure: %v", n)
	}
}

// A device that is deleted again and again makes no busy loop.
func TestLostAgainAndAgain(t *testing.T) {
	r, d := quick(t, twoNetworks)
	d.backoff = 200 * time.Millisecond
	r.engine.refuse = func(dataplane.Desired) error { return nil }
	r.engine.taps["blue"], r.engine.taps["red"] = nil, nil
	d.base.Networks = d.base.Networks[:0] // nothing to do for a repair
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.events(ctx) }()
	begin := time.Now()
	for range 3 {
		r.engine.events <- dataplane.Event{Kind: dataplane.DeviceLost, Network: "blue"}
	}
	eventually(t, "three repairs", func() bool { return strings.Count(r.log.String(), "opened anew") == 3 })
	if took := time.Since(begin); took < 2*d.backoff {
		t.Errorf("three repairs within %v", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSegmentationRefused(t *testing.T) {
	r, d := quick(t, twoNetworks)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.events(ctx) }()
	for range 3 {
		r.engine.events <- dataplane.Event{Kind: dataplane.SegmentationRefused, Err: errors.New("EIO")}
	}
	eventually(t, "the events", func() bool { return len(r.engine.events) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.log.String(), "refuses segmentation offload"); n != 1 {
		t.Errorf("told %d times", n)
	}
}
