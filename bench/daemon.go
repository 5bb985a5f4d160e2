package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"overtap/bench/netlab"
)

const (
	readyLimit = 10 * time.Second
	stopLimit  = 20 * time.Second // the daemon's own limit is 15 s
)

// Build compiles cmd/overtap into dir, by the go command from inside this module,
// and returns the binary's path.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "overtap")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "overtap/cmd/overtap").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build overtap: %w\n%s", err, out)
	}
	return path, nil
}

// daemon is a running `overtap run`.
type daemon struct {
	site   *netlab.Site
	cmd    *netlab.Cmd
	binary string
	dir    string
	log    journal
	ended  chan struct{} // closed when the process is gone
	err    error         // of Wait, once ended
}

// daemonConfig is what a bed's daemon has to know.
type daemonConfig struct {
	site       *netlab.Site
	peers      []string // underlay addresses
	maxEntries int
	subnet     netip.Prefix // of the peer's container; invalid = VXLAN
	metrics    string       // where to listen; "" = nowhere
}

func (c daemonConfig) toml(socket string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[underlay]\naddress = %q\ndevice = %q\n", c.site.Underlay, netlab.UnderlayDev)
	fmt.Fprintf(&b, "[control]\nsocket = %q\nmetrics = %q\n", socket, c.metrics)
	if c.subnet.IsValid() {
		fmt.Fprintf(&b, "[[ipip]]\nname = %q\nmtu = %d\n", tapDev, c.site.MTU)
		for _, p := range c.peers {
			fmt.Fprintf(&b, "[[ipip.route]]\nprefix = %q\npeer = %q\n", c.subnet, p)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "[[vxlan]]\nname = \"bench\"\nvni = %d\nport = %d\ntap = %q\nmtu = %d\nbridge = %q\nmax_entries = %d\n",
		vni, port, tapDev, c.site.MTU, netlab.SiteBridge, c.maxEntries)
	for _, p := range c.peers {
		fmt.Fprintf(&b, "[[vxlan.peer]]\naddress = %q\n", p)
	}
	return b.String()
}

// startDaemon runs the binary on the site's host and waits until it is ready.
func startDaemon(ctx context.Context, binary string, c daemonConfig) (*daemon, error) {
	d, err := launch(binary, c)
	if err != nil {
		return nil, fmt.Errorf("site %s: start overtap: %w", c.site.Host.Name(), err)
	}
	if err := d.awaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("site %s: start overtap: %w", c.site.Host.Name(), err), d.stop())
	}
	return d, nil
}

func launch(binary string, c daemonConfig) (*daemon, error) {
	// Short, because a socket's path has to be.
	dir, err := os.MkdirTemp("", newLabName()+"-")
	if err != nil {
		return nil, err
	}
	d := &daemon{site: c.site, binary: binary, dir: dir, ended: make(chan struct{})}
	config := filepath.Join(dir, "overtap.toml")
	if err := os.WriteFile(config, []byte(c.toml(d.socket())), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.cmd = c.site.Host.Command(binary, "run", "--config", config).KillWithParent()
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "sock") }

func (d *daemon) pid() int { return d.cmd.Process.Pid }

func (d *daemon) awaitReady(ctx context.Context) error {
	limit := time.After(readyLimit)
	for !strings.Contains(d.log.String(), "msg=ready") {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ended:
			return d.dead()
		case <-limit:
			return fmt.Errorf("not ready within %v; its log:\n%s", readyLimit, &d.log)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// alive returns an error when the process has ended.
func (d *daemon) alive() error {
	select {
	case <-d.ended:
		return d.dead()
	default:
		return nil
	}
}

func (d *daemon) dead() error {
	return fmt.Errorf("overtap ended by itself (%v); its log:\n%s", d.err, &d.log)
}

// stop ends the process by SIGTERM, or by SIGKILL when it does not listen, and
// removes its files. One that ended otherwise than with status 0 is an error.
func (d *daemon) stop() error {
	defer os.RemoveAll(d.dir)
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(stopLimit):
		d.cmd.Process.Kill()
		<-d.ended
		return fmt.Errorf("overtap did not stop within %v; its log:\n%s", stopLimit, &d.log)
	}
	if d.err != nil {
		return fmt.Errorf("overtap ended with an error: %w; its log:\n%s", d.err, &d.log)
	}
	return nil
}

// learned returns how many entries the daemon's table has learned.
func (d *daemon) learned(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, d.binary, "status", "--json", "--socket", d.socket()).Output()
	if err != nil {
		return 0, fmt.Errorf("overtap status: %w", err)
	}
	var status struct {
		Networks []struct {
			Learned int `json:"entries_learned"`
		} `json:"networks"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return 0, fmt.Errorf("overtap status: %w", err)
	}
	n := 0
	for _, net := range status.Networks {
		n += net.Learned
	}
	return n, nil
}

// journal collects what a process writes.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// String returns what was written so far.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}
