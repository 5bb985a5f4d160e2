package interop

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

// Hundreds of connections to the metrics listener that say nothing, as any user of the
// host may open, leave the daemon descriptors for its operator; and when they have been
// idle for long enough, a request for the metrics is answered.
func TestIdleConnectionsStarveNothing(t *testing.T) {
	const address = "127.0.0.1:9472"
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	c := at(a, blue(a, sites...))
	c.metrics = address
	d := start(t, a.Host, c)
	fds := must[[]os.DirEntry](t)(os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid)))
	limit := unix.Rlimit{Cur: uint64(len(fds) + 100), Max: uint64(len(fds) + 100)}
	check(t, unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil))
	dial := func() (conn net.Conn) {
		check(t, a.Host.Do(func() (err error) {
			conn, err = net.Dial("tcp", address)
			return err
		}))
		return conn
	}
	var idle []net.Conn
	for range 600 {
		idle = append(idle, dial())
		defer idle[len(idle)-1].Close()
	}
	begun := time.Now()
	d.verb("status")
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("status took %v", took)
	}
	for _, conn := range idle[100:] {
		conn.Close()
	}
	eventually(t, "the metrics are answered", func() error {
		conn := dial()
		defer conn.Close()
		check(t, conn.SetDeadline(time.Now().Add(patience)))
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
		resp, err := client.Get("http://" + address + "/healthz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
}
