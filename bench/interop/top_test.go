package interop

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/terminal/terminaltest"
	"overtap/bench/traffic"
)

// moving finds the rates in the line of the totals of `overtap top`.
var moving = regexp.MustCompile(`tx +([0-9.]+[kMG]?)bit/s +([0-9.]+[kMG]?)pkt/s .* rx `)

// `overtap top` on a terminal of 80 by 24, beside traffic: what it shows moves, keys
// and sizes are obeyed; a daemon that dies is shown so, and its successor found; the
// terminal is at the end as it was.
func TestTop(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)
	reaches(t, a.Container, b.IPv4)

	ctx, end := context.WithTimeout(t.Context(), 2*time.Minute)
	defer end()
	var g errgroup.Group
	g.Go(func() error {
		_, err := traffic.UDP(ctx, traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4},
			traffic.UDPOptions{Size: 1000, Rate: 500, Duration: 2 * time.Minute})
		if ctx.Err() != nil {
			return nil // the test is over
		}
		return err
	})
	defer func() {
		end()
		check(t, g.Wait())
	}()

	s := terminaltest.New(t, 80, 24, environ(), program(t), "top", "--socket", socket, "--interval", "300ms")
	s.Shows(fmt.Sprintf(", pid %d, ready, up ", d.cmd.Process.Pid), "1 networks 1", "2 peers 1",
		"NETWORK  TX BIT/S TX PKT/S RX BIT/S RX PKT/S DROP/S     FDB FULL LAST MINUTE", "\nblue ",
		"q quit  ? help  tab view  s sort  r reverse  / filter  space pause")
	seen := map[string]bool{}
	s.Await("rates that move", func(screen string) error {
		if m := moving.FindStringSubmatch(screen); m != nil && m[2] != "0" {
			seen[m[1]] = true
		}
		if len(seen) < 3 {
			return fmt.Errorf("the rates were %v", seen)
		}
		return nil
	})
	fits := func(columns int) {
		t.Helper()
		for l := range strings.Lines(s.Text()) {
			if n := len([]rune(strings.TrimRight(l, "\n"))); n > columns {
				t.Errorf("%d columns of %d: %s", n, columns, l)
			}
		}
	}
	fits(80)
	s.Press("2")
	s.Shows("PEER", b.Underlay.String())
	s.Press("4")
	s.Shows("ORIGIN", b.MAC.String(), "learned")
	s.Press("/", "n", "o", "n", "e", "Enter")
	s.Shows(`nothing contains "none"`)
	s.Press("Escape")
	s.Shows(b.MAC.String())
	s.Press("1")
	s.Resize(50, 10)
	s.Shows("blue", "q quit  ? help")
	fits(50)
	s.Resize(80, 24)

	d.kill()
	s.Shows("no answer for", "reconnecting: ", "\nblue ")
	d = startFile(t, a.Host, c, file, socket)
	s.Shows(fmt.Sprintf(", pid %d, ready, up ", d.cmd.Process.Pid), "drops ")
	s.Press("q")
	if code := s.Over(); code != 0 {
		t.Errorf("exit status %d", code)
	}

	s = terminaltest.New(t, 80, 24, environ(), program(t), "top", "--socket", socket)
	s.Shows("ready, up")
	check(t, syscall.Kill(s.PID(), syscall.SIGTERM))
	if code := s.Over(); code != 0 {
		t.Errorf("after SIGTERM: exit status %d", code)
	}
}
