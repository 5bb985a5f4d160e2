package dataplane_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
)

// openFDs counts the epolls and eventfds that are open: all that engines and
// their edges in memory open. Go's runtime opens and closes files of its own.
func openFDs(tb testing.TB) (n int) {
	tb.Helper()
	const dir = "/proc/self/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, fd := range fds {
		if what, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(what, "anon_inode:[event") {
			n++
		}
	}
	if n == 0 {
		tb.Fatalf("%s shows no epoll, not even the runtime's", dir)
	}
	return n
}

// TestRemoveUnderTraffic removes and adds a network while both its ends are
// busy; the backend checks that nothing closed is used.
func TestRemoveUnderTraffic(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	a := bareHost(t, u, addrA, 2)
	a.apply(blue, red)
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	s := flowSpec{src: macA, dst: macB, udp: true}
	for _, f := range []func(){
		func() { a.TAP("vx0").Inject(hello, s.partial(t, pattern(100))) },
		func() { a.TAP("vx1").Inject(hello) },
		func() { b.TAP("vx0").Inject(helloBack) },
		func() { a.Stats(); a.Info() },
		func() {
			if _, err := a.FDB(""); err != nil {
				t.Error(err)
			}
			if _, err := a.Flush(dataplane.Match{MAC: macB}); err != nil {
				t.Error(err)
			}
		},
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
					time.Sleep(20 * time.Microsecond)
				}
			}
		})
	}
	for i := range 50 {
		changed := red
		changed.TTL = uint8(1 + i)
		a.apply(changed)
		a.apply(changed, blue)
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	b.TAP("vx0").Written()
	b.TAP("vx0").Wait(0)
	a.TAP("vx0").Inject(plainFrame(macB, macA, "at last"))
	eventually(t, "the last frame arrives", func() bool {
		return slices.ContainsFunc(b.TAP("vx0").Written(), func(f netiotest.Frame) bool {
			return strings.HasSuffix(string(f.Data), "at last")
		})
	})
}

// TestNoLeaks adds and removes a network many times.
func TestNoLeaks(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	start := openFDs(t)
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	e, err := dataplane.New(dataplane.Options{Underlay: addrA, Workers: 2, Backend: edges})
	if err != nil {
		t.Fatal(err)
	}
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	red.Group = netip.MustParseAddr("239.1.1.1")
	red.Port = 8472
	idle := openFDs(t)
	for i := range 200 {
		for _, nets := range [][]dataplane.Network{{blue}, {blue, red}, {red}, nil} {
			if _, err := e.Apply(dataplane.Desired{Networks: nets}); err != nil {
				t.Fatal(err)
			}
		}
		if got := openFDs(t); got != idle {
			t.Fatalf("after %d rounds %d file descriptors are open, %d were before", i+1, got, idle)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if got := openFDs(t); got != start {
		t.Errorf("%d file descriptors are open, %d were before", got, start)
	}
}

func TestClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	e, err := dataplane.New(dataplane.Options{Underlay: addrA, Backend: edges})
	if err != nil {
		t.Fatal(err)
	}
	n := testNetwork(addrA, addrB)
	if _, err := e.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := e.Apply(dataplane.Desired{}); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("Apply after Close: %v", err)
	}
	// The eyes may still look; the backend checks that nothing closed is asked.
	e.Stats()
	e.Info()
	if _, err := e.FDB(""); err != nil {
		t.Error(err)
	}
	if _, err := e.Flush(dataplane.Match{}); err != nil {
		t.Error(err)
	}
}
