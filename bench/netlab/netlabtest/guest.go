package netlabtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/guest"
)

// guestTime is how long a guest may take to boot, or to be cleared.
const guestTime = 2 * time.Minute

// shared is the guest of all tests of this process. A test that uses it holds the
// mutex.
var shared struct {
	sync.Mutex
	lab   *netlab.Lab
	guest *guest.Guest
}

// Guest gives the test the process's one guest, empty, for as long as it runs:
// the first test that asks boots it, and TestMain calls CloseGuest. A test that
// fails shows the guest's console. Without a guest to boot it skips the test, or
// fails it when the environment says REQUIRE_ROOT=1. Without root it does as
// Root. A test asks once, and makes its lab first: the guest leaves it before it
// is destroyed.
func Guest(tb testing.TB) *guest.Guest {
	tb.Helper()
	Root(tb)
	shared.Lock()
	tb.Cleanup(shared.Unlock)
	if shared.guest == nil || !shared.guest.Running() {
		if err := errors.Join(closeGuest(), bootGuest()); err != nil {
			if errors.Is(err, guest.ErrNotBuilt) && os.Getenv("REQUIRE_ROOT") != "1" {
				tb.Skip(err)
			}
			tb.Fatal(err)
		}
	}
	g := shared.guest
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the guest's console:\n%s", g.Console())
		}
		ctx, cancel := context.WithTimeout(context.Background(), guestTime)
		defer cancel()
		if err := g.Reset(ctx); err != nil {
			tb.Errorf("clear the guest: %v", err)
		}
	})
	return g
}

func bootGuest() error {
	lab, err := netlab.New(fmt.Sprintf("t%dguest", os.Getpid()))
	if err != nil {
		return err
	}
	shared.lab = lab
	ctx, cancel := context.WithTimeout(context.Background(), guestTime)
	defer cancel()
	shared.guest, err = guest.Start(ctx, lab, "guest")
	return err
}

// CloseGuest ends the guest, where a test had it booted.
func CloseGuest() error {
	shared.Lock()
	defer shared.Unlock()
	return closeGuest()
}

func closeGuest() (err error) {
	if shared.guest != nil {
		err = shared.guest.Close()
		shared.guest = nil
	}
	if shared.lab != nil {
		err = errors.Join(err, shared.lab.Destroy())
		shared.lab = nil
	}
	return err
}
