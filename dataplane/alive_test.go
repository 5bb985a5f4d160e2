package dataplane_test

import (
	"testing"
	"time"

	"overtap/dataplane/netio/netiotest"
)

// An engine is alive, idle or not, and is not while a thread does not come back
// from what it writes to.
func TestAlive(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 2)
	a.apply(testNetwork(addrA, addrB))
	if !a.Alive() {
		t.Fatal("an idle engine is not alive")
	}
	release := make(chan struct{})
	a.HoldSends(release)
	a.TAP("vx0").Inject(hello)
	eventually(t, "a thread hangs", func() bool { return !a.Alive() })
	close(release)
	a.HoldSends(nil)
	start := time.Now()
	eventually(t, "it is back", func() bool { return a.Alive() })
	if time.Since(start) > 5*time.Second {
		t.Error("it took long")
	}
}
