package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"overtap/bench/terminal"
)

// metricsAddr is where a bed's daemons show their metrics, each on its own host.
const metricsAddr = "127.0.0.1:9472"

// Observer is a program that watches the daemons of a bed while traffic flows.
type Observer struct {
	Name string // on the command line
	// watch begins, and returns once it is under way.
	watch func(context.Context, *Bed) (*watch, error)
}

// watch is an observer at work.
type watch struct {
	// stop ends it; an error says that it could not watch all the while.
	stop func() error
	// pause lets it look away, or go on.
	pause func(bool) error
	// programs are the ids of those that run for it on the daemon's host.
	programs []int
}

// Observers lists all observers. What else an operator may leave on, and must
// cost nothing, joins them here.
var Observers = []Observer{
	{"metrics", scrape},
	{"top", watchTop},
}

// ParseObservers reads a list of observers by their names, separated by commas.
// Each counts once.
func ParseObservers(list string) ([]Observer, error) {
	return parseList("observer", list, Observers, func(o Observer) string { return o.Name })
}

// scrape reads the metrics of each daemon every second, as Prometheus does.
func scrape(ctx context.Context, b *Bed) (*watch, error) {
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, len(b.daemons))
	var away atomic.Bool
	stop := func() error {
		cancel()
		var errs []error
		for range b.daemons {
			errs = append(errs, <-failed)
		}
		return errors.Join(errs...)
	}
	for _, d := range b.daemons {
		client := d.metricsClient()
		if err := scrapeOnce(ctx, client); err != nil {
			cancel()
			return nil, err
		}
		go func() { failed <- scrapeEach(ctx, client, time.Second, &away) }()
	}
	return &watch{stop: stop, pause: func(p bool) error { away.Store(p); return nil }}, nil
}

func scrapeEach(ctx context.Context, client *http.Client, every time.Duration, away *atomic.Bool) error {
	defer client.CloseIdleConnections()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if away.Load() {
			continue
		}
		if err := scrapeOnce(ctx, client); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func scrapeOnce(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddr+"/metrics", nil)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	if !strings.Contains(string(page), "overtap_tx_packets_total") {
		return fmt.Errorf("scrape: %s, without the daemon's counters", resp.Status)
	}
	return nil
}

// metricsClient is a client on the daemon's host.
func (d *daemon) metricsClient() *http.Client {
	var dialer net.Dialer
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = d.site.Host.Do(func() error {
				c, err = dialer.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

// watchTop runs `overtap top` beside each daemon on a terminal of 80 by 24.
func watchTop(_ context.Context, b *Bed) (*watch, error) {
	var all []*terminal.Terminal
	var programs []int
	stop := func() error {
		var errs []error
		for _, t := range all {
			errs = append(errs, t.Close())
		}
		return errors.Join(errs...)
	}
	for _, d := range b.daemons {
		cmd := exec.Command(d.binary, "top", "--socket", d.Socket())
		cmd.Env = append(cmd.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8")
		t, err := terminal.Start(cmd, 80, 24)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		all, programs = append(all, t), append(programs, t.PID())
	}
	for _, t := range all {
		if err := awaitDrawn(t); err != nil {
			return nil, errors.Join(err, stop())
		}
	}
	pause := func(away bool) error {
		sig := syscall.SIGCONT
		if away {
			sig = syscall.SIGSTOP
		}
		var errs []error
		for _, pid := range programs {
			errs = append(errs, syscall.Kill(pid, sig))
		}
		return errors.Join(errs...)
	}
	return &watch{func() error { return errors.Join(pause(false), stop()) }, pause, programs}, nil
}

// aScreen is more than a program draws before its first screen, in bytes.
const aScreen = 500

func awaitDrawn(t *terminal.Terminal) error {
	for deadline := time.Now().Add(readyLimit); t.Drawn() < aScreen; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("overtap top drew %d bytes within %v", t.Drawn(), readyLimit)
		}
	}
	return nil
}
