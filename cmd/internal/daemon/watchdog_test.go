package daemon

import (
	"strings"
	"testing"
	"time"
)

// The watchdog is answered while the engine's threads come round, and not when
// one hangs.
func TestWatchdog(t *testing.T) {
	underlay(t)
	sent := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "200000")
	r, o := prepare(t, twoNetworks)
	start(t, r, o)
	until := func(want string, within time.Duration) bool {
		for deadline := time.Now().Add(within); time.Now().Before(deadline); {
			if strings.Contains(sent(), want) {
				return true
			}
		}
		return false
	}
	for range 3 {
		if !until("WATCHDOG=1", 5*time.Second) {
			t.Fatal("the watchdog gets no answer")
		}
	}
	r.engine.hung.Store(true)
	time.Sleep(300 * time.Millisecond)
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(r.log.String(), "a thread of the path hangs"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said of a thread that hangs")
		}
	}
	r.engine.hung.Store(false)
	if !until("WATCHDOG=1", 5*time.Second) {
		t.Error("the watchdog gets no answer when the thread is back")
	}
}
