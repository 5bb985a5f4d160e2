package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/dataplane"
	"overtap/encap"
)

// watching runs `overtap fdb monitor` until the end of the test and delivers what
// it prints.
func watching(t *testing.T, d *daemon) <-chan dataplane.FDBChange {
	t.Helper()
	cmd := exec.Command(builtPath, "fdb", "monitor", "--json", "--socket", d.socket)
	cmd.Env = environ()
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the monitor ended with %v", err)
		}
	})
	changes := make(chan dataplane.FDBChange, 1000)
	go func() {
		defer close(changes)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var c dataplane.FDBChange
			if json.Unmarshal(lines.Bytes(), &c) == nil {
				changes <- c
			}
		}
	}()
	// Until it watches: what is added and deleted is printed.
	const canary = "02:42:0a:00:01:76"
	eventually(t, "the monitor watches", func() error {
		d.verb("fdb", "add", "--network", "blue", canary, netlab.UnderlayAddr(2, false).String())
		d.verb("fdb", "del", "--network", "blue", canary)
		select {
		case <-changes:
			return nil
		case <-time.After(200 * time.Millisecond):
			return errors.New("it prints nothing")
		}
	})
	return changes
}

// monitor returns a function that wants the next changes of a MAC to be these.
func monitor(t *testing.T, d *daemon, mac encap.MAC) func(want ...string) {
	t.Helper()
	changes := watching(t, d)
	return func(want ...string) {
		t.Helper()
		var got []string
		for deadline := time.After(patience); len(got) < len(want); {
			select {
			case c := <-changes:
				if c.MAC == mac && c.Network == "blue" {
					got = append(got, c.Event)
				}
			case <-deadline:
				t.Fatalf("the monitor prints %q, want %q", got, want)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the monitor prints %q, want %q", got, want)
		}
	}
}

// The monitor prints what is learned, added, flushed and deleted.
func TestFDBMonitor(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	changes := watching(t, d)
	want := func(event, mac string) {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case c := <-changes:
				if c.Event == event && c.MAC.String() == mac && c.Network == "blue" {
					return
				}
			case <-deadline:
				t.Fatalf("no %q of %s", event, mac)
			}
		}
	}
	d.verb("fdb", "flush", "--mac", b.MAC.String()) // of what it said before anybody watched
	reaches(t, a.Container, b.IPv4)
	want("learn", b.MAC.String())
	d.verb("fdb", "flush", "--mac", b.MAC.String())
	want("delete", b.MAC.String())
	d.verb("fdb", "add", "--network", "blue", "02:42:0a:00:01:77", b.Underlay.String())
	want("add", "02:42:0a:00:01:77")
	d.verb("fdb", "del", "--network", "blue", "02:42:0a:00:01:77")
	want("delete", "02:42:0a:00:01:77")
}
