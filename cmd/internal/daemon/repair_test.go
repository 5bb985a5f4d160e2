package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// A deleted TAP is opened again and put on its bridge again, with the command
// line's entries, and the log says so once.
func TestDeviceLost(t *testing.T) {
	underlay(t)
	r, o := prepare(t, twoNetworks)
	start(t, r, o)
	if _, err := r.client.AddFDB(t.Context(), control.Entry{Network: "blue", MAC: 0x020000000001, Peer: addr("192.0.2.3")}); err != nil {
		t.Fatal(err)
	}
	r.engine.lose("blue", "blue")
	eventually(t, "the repair", func() bool { return strings.Contains(r.log.String(), "opened again") })
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
	if n := strings.Count(r.log.String(), "level=WARN"); n != 2 { // the device, and red has no peers
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
	// Both stand already.
	r.engine.desired = d.desired()
	r.engine.taps["blue"], r.engine.taps["red"] = nil, nil
	r.engine.lost["blue"] = true
	begin := time.Now()
	err := d.repairLost(t.Context(), make(map[string]time.Time))
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

// Of many devices that are deleted at once every one comes back, whatever
// became of the events: one of all here, and none at all later.
func TestManyLost(t *testing.T) {
	underlay(t)
	const many = 12
	var config strings.Builder
	for i := range many {
		fmt.Fprintf(&config, "[[vxlan]]\nname = \"net%d\"\nvni = %d\n", i, 100+i)
	}
	r, o := prepare(t, config.String())
	start(t, r, o)
	for round := 1; round <= 2; round++ {
		for i := range many {
			r.engine.loseSilently(fmt.Sprintf("net%d", i))
		}
		if round == 1 {
			r.engine.events <- dataplane.Event{Kind: dataplane.DeviceLost, Network: "net0", Err: errors.New("EBADFD")}
		}
		eventually(t, "the repairs", func() bool { return r.said("opened again, learned") == round*many })
		for i := range many {
			if _, err := netlink.LinkByName(fmt.Sprintf("net%d", i)); err != nil {
				t.Error(err)
			}
		}
		if s, err := r.client.Status(t.Context()); err != nil || !s.Ready {
			t.Errorf("not ready after the repairs: %v, %q", err, s.Problems)
		}
	}
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}

// From the moment that the engine knows, and not from that of the repair.
func TestNotReadyWhileLost(t *testing.T) {
	r, d := idle(t, twoNetworks)
	if _, err := d.AddFDB(entry("red", ownMAC, "192.0.2.3")); err != nil { // gives the engine its networks
		t.Fatal(err)
	}
	if i := r.engine.Info(); len(i.Networks) != 2 {
		t.Fatalf("the engine has %+v", i)
	}
	d.ready.start()
	if !d.isReady() {
		t.Fatal("not ready before")
	}
	r.engine.lost["blue"] = true
	if d.isReady() {
		t.Error("ready while a network is lost")
	}
}

// A device that is deleted again and again makes no busy loop.
func TestLostAgainAndAgain(t *testing.T) {
	underlay(t)
	r, o := prepare(t, twoNetworks)
	start(t, r, o)
	begin := time.Now()
	for i := range 3 {
		r.engine.lose("blue", "blue")
		if i > 0 { // the repair waits
			s, err := r.client.Status(t.Context())
			if err != nil || s.Ready || !slices.Equal(s.Problems, []string{"network blue: its device is being opened again"}) {
				t.Errorf("status before the repair: %v, %v, %q", err, s.Ready, s.Problems)
			}
		}
		eventually(t, "the repair", func() bool { return r.said("opened again, learned") == i+1 })
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("three repairs within %v", took)
	}
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}

// What a route refuses is logged, and when it does so no more, a few times.
func TestSegmentationRefused(t *testing.T) {
	r, d := quick(t, twoNetworks)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.events(ctx) }()
	for range 10 {
		r.engine.events <- dataplane.Event{Kind: dataplane.SegmentationRefused, Count: 1, Err: errors.New("EIO")}
		r.engine.events <- dataplane.Event{Kind: dataplane.SegmentationResumed, Count: 1, Peer: addr("192.0.2.2")}
	}
	eventually(t, "the events", func() bool { return len(r.engine.events) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, want := range []string{`tried again, first after a minute" peers=1 err=EIO`, `refuse segmentation offload (UDP_SEGMENT) no more" peers=1 peer=192.0.2.2`} {
		if n := strings.Count(r.log.String(), want); n != 2 {
			t.Errorf("%q is logged %d times:\n%s", want, n, r.log)
		}
	}
}

// A kernel that refuses GSO packets at a device is logged, and when it does so no more.
func TestGSORefused(t *testing.T) {
	r, d := quick(t, twoNetworks)
	for _, ev := range []dataplane.Event{
		{Kind: dataplane.GSORefused, Network: "blue", Err: errors.New("EINVAL")},
		{Kind: dataplane.GSOResumed, Network: "blue"},
	} {
		if err := d.handleEvent(ev); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{`tried again, first after a minute" network=blue err=EINVAL`, `refuses GSO packets at the network's device no more" network=blue`} {
		if n := strings.Count(r.log.String(), want); n != 1 {
			t.Errorf("%q is logged %d times:\n%s", want, n, r.log)
		}
	}
}

// A path MTU that changes is logged once a change.
func TestPathMTUChanged(t *testing.T) {
	r, d := quick(t, twoNetworks)
	ev := dataplane.Event{Kind: dataplane.PathMTUChanged, Network: "blue", Peer: addr("192.0.2.3"), PathMTU: 1400}
	for range 2 {
		if err := d.handleEvent(ev); err != nil {
			t.Error(err)
		}
		ev.PathMTU = 0
	}
	for _, want := range []string{"level=WARN msg=\"the path to a peer takes shorter", "peer=192.0.2.3 pmtu=1400", "takes whole packets again"} {
		if n := strings.Count(r.log.String(), want); n != 1 {
			t.Errorf("%q is logged %d times:\n%s", want, n, r.log)
		}
	}
}

// Paths that change all the time are logged a few times, and then summed up.
func TestPathMTULines(t *testing.T) {
	r, d := quick(t, twoNetworks)
	for i := range 25 {
		for _, mtu := range []encap.UnderlayMTU{1400, 0} {
			do(t, d.handleEvent(dataplane.Event{Kind: dataplane.PathMTUChanged, Network: "blue", Peer: addr(fmt.Sprintf("192.0.2.%d", 3+i)), PathMTU: mtu}))
		}
	}
	if n := r.said("the path to a peer"); n != 4 {
		t.Errorf("%d lines:\n%s", n, r.log)
	}
	d.limit.Stop()
	if r.said("the path to a peer") != 5 || r.said(`network=blue peer=192.0.2.27 repeated="46 more in the last minute"`) != 1 {
		t.Errorf("in the end:\n%s", r.log)
	}
}
