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
	"overtap/dataplane"
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

// Daemon is a running `overtap run` on a host of a lab.
type Daemon struct {
	Host *netlab.Host

	cmd    *netlab.Cmd
	binary string
	dir    string
	log    journal
	ended  chan struct{} // closed when the process is gone
	err    error         // of Wait, once ended
}

// daemon is that of a bed's site.
type daemon struct {
	*Daemon
	site *netlab.Site
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
	d, err := StartDaemon(ctx, binary, c.site.Host, c.toml)
	if err != nil {
		return nil, err
	}
	return &daemon{d, c.site}, nil
}

// StartDaemon runs the binary on the host, with the configuration that toml makes
// for a control socket, and waits until it is ready. Stop it.
func StartDaemon(ctx context.Context, binary string, h *netlab.Host, toml func(socket string) string) (*Daemon, error) {
	d, err := launch(binary, h, toml)
	if err != nil {
		return nil, fmt.Errorf("host %s: start overtap: %w", h.Name(), err)
	}
	if err := d.awaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("host %s: start overtap: %w", h.Name(), err), d.Stop())
	}
	return d, nil
}

func launch(binary string, h *netlab.Host, toml func(socket string) string) (*Daemon, error) {
	// Short, because a socket's path has to be.
	dir, err := os.MkdirTemp("", newLabName()+"-")
	if err != nil {
		return nil, err
	}
	d := &Daemon{Host: h, binary: binary, dir: dir, ended: make(chan struct{})}
	if err := os.WriteFile(d.Config(), []byte(toml(d.Socket())), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.cmd = h.Command(binary, "run", "--config", d.Config()).KillWithParent()
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

// Socket returns the path of the control socket.
func (d *Daemon) Socket() string { return filepath.Join(d.dir, "sock") }

// Config returns the path of the configuration, which may be rewritten.
func (d *Daemon) Config() string { return filepath.Join(d.dir, "overtap.toml") }

// PID returns the process's ID.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log returns what the process has written to stderr so far.
func (d *Daemon) Log() string { return d.log.String() }

// Verb runs a verb of the command line against the daemon and returns what it
// printed; its error has what it wrote to stderr.
func (d *Daemon) Verb(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.binary, append(args, "--socket", d.Socket())...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("overtap %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Stats asks it for its counters.
func (d *Daemon) Stats(ctx context.Context) (s dataplane.Stats, err error) {
	out, err := d.Verb(ctx, "stats", "--json")
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		return s, fmt.Errorf("counters: %w", err)
	}
	return s, nil
}

func (d *Daemon) awaitReady(ctx context.Context) error {
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

// Alive returns an error when the process has ended.
func (d *Daemon) Alive() error {
	select {
	case <-d.ended:
		return d.dead()
	default:
		return nil
	}
}

func (d *Daemon) dead() error {
	return fmt.Errorf("overtap ended by itself (%v); its log:\n%s", d.err, &d.log)
}

// Stop ends the process by SIGTERM, or by SIGKILL when it does not listen, and
// removes its files. One that ended otherwise than with status 0 is an error.
func (d *Daemon) Stop() error {
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
	out, err := d.Verb(ctx, "status", "--json")
	if err != nil {
		return 0, err
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
