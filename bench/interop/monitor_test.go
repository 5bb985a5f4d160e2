package interop

import (
	"bufio"
	"encoding/json"
	"io"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
)

// The monitor tells what is learned, added, flushed and deleted.
func TestFDBMonitor(t *testing.T) {
	d, a, b := pair(t)
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
	time.Sleep(500 * time.Millisecond) // until it watches
	reaches(t, a.Container, b.IPv4)
	want("learn", b.MAC.String())
	d.verb("fdb", "flush", "--mac", b.MAC.String())
	want("delete", b.MAC.String())
	d.verb("fdb", "add", "--network", "blue", "02:42:0a:00:01:77", b.Underlay.String())
	want("add", "02:42:0a:00:01:77")
	d.verb("fdb", "del", "--network", "blue", "02:42:0a:00:01:77")
	want("delete", "02:42:0a:00:01:77")
}
