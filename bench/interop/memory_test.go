package interop

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/encap"
)

var vmRSS = regexp.MustCompile(`VmRSS:\s*(\d+) kB`)

// rss returns the daemon's resident memory in KiB.
func (d *daemon) rss() int {
	d.t.Helper()
	text := must[[]byte](d.t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)))
	m := vmRSS.FindSubmatch(text)
	if m == nil {
		d.t.Fatalf("no VmRSS in\n%s", text)
	}
	return must[int](d.t)(strconv.Atoi(string(m[1])))
}

// One network with ten thousand learned entries, after traffic that has touched
// every buffer, takes no more than 64 MiB.
func TestMemoryOfTenThousandEntries(t *testing.T) {
	const (
		stations = 10000
		first    = encap.MAC(0x0242_0100_0000)
		limit    = 64 << 10 // KiB
	)
	d, a, b := pair(t)
	exchange(t, a, b, 16<<20)

	mouth := openRaw(t, b.Container, netlab.ContainerDev)
	missing := make(map[encap.MAC]bool, stations)
	for i := range stations {
		missing[first+encap.MAC(i)] = true
	}
	// A queue may overflow on a busy machine: what was lost is sent again.
	eventually(t, "every station is learned", func() error {
		sent := 0
		for mac := range missing {
			mouth.send(ethernet(a.MAC, mac, nil, etherTest, marked(46, "")))
			if sent++; sent%100 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		for _, e := range d.fdb() {
			if e.Origin == "learned" && e.Peer == b.Underlay {
				delete(missing, e.MAC)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d are not", len(missing))
		}
		return nil
	})
	mouth.close()
	if n := d.status().Networks[0]; n.Entries < stations || n.EntriesLearned < stations || n.Entries > stations+100 {
		t.Errorf("%d entries, %d of them learned, want %d and a few", n.Entries, n.EntriesLearned, stations)
	}
	exchange(t, a, b, 16<<20)
	got := d.rss()
	t.Logf("resident: %d KiB", got)
	if got > limit && !raceEnabled {
		t.Errorf("%d KiB are resident, want at most %d", got, limit)
	}
}
