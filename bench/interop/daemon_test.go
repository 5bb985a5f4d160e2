package interop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/dataplane"
	"overtap/encap"
)

// daemon is a running `overtap run`.
type daemon struct {
	t      testing.TB
	host   *netlab.Host
	cmd    *netlab.Cmd
	socket string
	made   []string // devices that it was to make, and so to remove
	log    *journal
	ended  chan struct{} // closed when the process is gone
	err    error         // of Wait, once ended
	over   bool          // stopped or killed by the test
	early  []dataplane.DropStats
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

// environ is that of every program: the race detector's runtime must not
// sleep a second at each end (atexit_sleep_ms).
func environ() []string {
	return append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
}

// prepare writes the configuration to a directory of its own, which is short,
// because a socket's path has to be.
func prepare(t testing.TB, c config) (file, socket string) {
	t.Helper()
	dir := must[string](t)(os.MkdirTemp("", "ot"))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	file, socket = filepath.Join(dir, "overtap.toml"), filepath.Join(dir, "sock")
	check(t, os.WriteFile(file, []byte(c.toml(socket)), 0o600))
	return file, socket
}

// start runs the daemon on the host and waits until it is ready. At the end of
// the test it is stopped, unless the test does that.
func start(t testing.TB, h *netlab.Host, c config) *daemon {
	t.Helper()
	file, socket := prepare(t, c)
	return startFile(t, h, c, file, socket)
}

func startFile(t testing.TB, h *netlab.Host, c config, file, socket string) *daemon {
	t.Helper()
	d := launch(t, h, c, file, socket)
	d.comesUp()
	return d
}

// launch is startFile that does not wait.
func launch(t testing.TB, h *netlab.Host, c config, file, socket string) *daemon {
	t.Helper()
	d := &daemon{
		t: t, host: h, socket: socket, log: &journal{}, ended: make(chan struct{}),
		cmd: h.Command(program(t), "run", "--config", file).KillWithParent(),
	}
	d.cmd.Stderr, d.cmd.Env = d.log, environ()
	before := must[[]string](t)(h.Links())
	for _, n := range c.networks {
		for _, dev := range []string{n.tap(), n.bridge} {
			// A TAP that is there already a daemon left that was killed.
			if dev != "" && (dev == n.tap() || !slices.Contains(before, dev)) {
				d.made = append(d.made, dev)
			}
		}
	}
	check(t, d.cmd.Start())
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(d.cleanup)
	return d
}

// comesUp waits until the daemon says that it is ready.
func (d *daemon) comesUp() {
	d.t.Helper()
	eventually(d.t, "ready", func() error {
		select {
		case <-d.ended:
			d.t.Fatalf("the daemon ended: %v\n%s", d.err, d.log)
		default:
		}
		if !strings.Contains(d.log.String(), "msg=ready") {
			return errors.New("no line says so")
		}
		return nil
	})
	d.early = d.stats().Drops
}

// cleanup stops a daemon that still runs, and shows its log and what it counted
// when the test failed.
func (d *daemon) cleanup() {
	if !d.over {
		if d.t.Failed() {
			for _, verb := range []string{"stats", "peers", "status", "fdb show"} {
				out, err := d.try(strings.Fields(verb)...)
				d.t.Logf("%s on host %s: %v\n%s", verb, d.host.Name(), err, out)
			}
		}
		d.stop(syscall.SIGTERM)
	}
	if d.t.Failed() {
		d.t.Logf("overtap on host %s:\n%s", d.host.Name(), d.log)
	}
}

// signal sends a signal to the process.
func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Errorf("signal the daemon: %v", err)
	}
}

// suspend stops the daemon (SIGSTOP) and waits until every thread of it has: one that
// runs on another CPU goes on for a moment.
func (d *daemon) suspend() {
	d.t.Helper()
	d.signal(syscall.SIGSTOP)
	eventually(d.t, "the daemon stops", func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.cmd.Process.Pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("no threads: %v", err)
		}
		for _, path := range tasks {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if _, state, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("%s: %s", path, text)
			}
		}
		return nil
	})
}

// await waits for the end of the process.
func (d *daemon) await() {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Errorf("the daemon does not end; killed")
		d.signal(syscall.SIGKILL)
		<-d.ended
	}
}

// unbalanced says of which network, and which way, not all that was offered was
// moved on, dropped or answered; "" of none.
func unbalanced(s dataplane.Stats) string {
	type way struct {
		network   string
		direction dataplane.Direction
	}
	drops := make(map[way]uint64)
	for _, d := range s.Drops {
		drops[way{d.Network, d.Direction}] += d.Count
	}
	for _, n := range s.Networks {
		out, in := drops[way{n.Network, dataplane.Outbound}], drops[way{n.Network, dataplane.Inbound}]
		if n.TxPackets+n.Suppressed+out != n.TxOffered || n.RxPackets+in != n.RxOffered {
			return fmt.Sprintf("%+v, dropped %d out and %d in", n, out, in)
		}
	}
	return ""
}

// conserves wants every frame that the daemon took to have been moved on, dropped
// under a name, or answered, once the network is quiet. While it is not, some are
// always on their way, and nothing can be said.
func (d *daemon) conserves() {
	problem, before := "", dataplane.Stats{}
	for range 60 {
		out, err := d.try("stats", "--json")
		if err != nil {
			return // a test that closed its ear
		}
		var s dataplane.Stats
		if err := json.Unmarshal(out, &s); err != nil {
			d.t.Errorf("stats: %v", err)
			return
		}
		if problem = unbalanced(s); problem == "" {
			return
		}
		if busy := !slices.Equal(s.Networks, before.Networks); busy {
			problem = ""
		}
		before = s
		time.Sleep(50 * time.Millisecond)
	}
	if problem != "" {
		d.t.Errorf("not conserved: %s", problem)
	}
}

// stop ends the daemon as an operator does and looks whether it went in order.
func (d *daemon) stop(s syscall.Signal) {
	d.t.Helper()
	d.conserves()
	d.over = true
	d.signal(s)
	d.await()
	if d.err != nil {
		d.t.Errorf("the daemon ended with %v, want exit code 0", d.err)
	}
	d.checkLog()
	left, err := d.host.Links()
	if err != nil {
		d.t.Error(err)
	}
	for _, dev := range d.made {
		if slices.Contains(left, dev) {
			d.t.Errorf("the daemon left %s behind", dev)
		}
	}
	if _, err := os.Lstat(d.socket); !errors.Is(err, fs.ErrNotExist) {
		d.t.Errorf("the daemon left its socket behind: %v", err)
	}
}

// kill ends the daemon with no chance to clean up.
func (d *daemon) kill() {
	d.t.Helper()
	d.over = true
	d.signal(syscall.SIGKILL)
	d.await()
	d.checkLog()
}

var alarming = regexp.MustCompile(`DATA RACE|panic:|fatal error:|SIGSEGV`)

func (d *daemon) checkLog() {
	d.t.Helper()
	if at := alarming.FindString(d.log.String()); at != "" {
		d.t.Errorf("the daemon's log has %q", at)
	}
}

// try runs a verb against the daemon and returns what it printed.
func (d *daemon) try(args ...string) ([]byte, error) {
	cmd := exec.Command(builtPath, append(args, "--socket", d.socket)...)
	cmd.Env = environ()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitNotReady && len(args) > 0 && args[0] == "status" {
		err = nil // it did answer
	}
	if err != nil {
		return out, fmt.Errorf("overtap %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// exitNotReady is the exit code of `overtap status` about a daemon that is not
// ready.
const exitNotReady = 3

// verb is try that must succeed.
func (d *daemon) verb(args ...string) string {
	d.t.Helper()
	return string(must[[]byte](d.t)(d.try(args...)))
}

// ask runs a verb with --json and reads its answer.
func ask[T any](d *daemon, args ...string) (v T) {
	d.t.Helper()
	out := d.verb(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		d.t.Fatalf("overtap %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

func (d *daemon) stats() dataplane.Stats {
	d.t.Helper()
	return ask[dataplane.Stats](d, "stats")
}

func (d *daemon) fdb(args ...string) []dataplane.FDBEntry {
	d.t.Helper()
	return ask[[]dataplane.FDBEntry](d, append([]string{"fdb", "show"}, args...)...)
}

// entry returns the entry of a MAC, if there is one.
func (d *daemon) entry(network string, mac encap.MAC) (dataplane.FDBEntry, bool) {
	d.t.Helper()
	all := d.fdb("--network", network, "--mac", mac.String())
	if len(all) != 1 {
		return dataplane.FDBEntry{}, false
	}
	return all[0], true
}

// status is what the tests read of `overtap status --json`.
type status struct {
	Ready    bool `json:"ready"`
	PID      int  `json:"pid"`
	Problems []string
	Warnings []string
	Offloads []dataplane.OffloadInfo `json:"offloads"`
	Networks []struct {
		dataplane.NetworkInfo
		Entries        int `json:"entries"`
		EntriesLearned int `json:"entries_learned"`
	} `json:"networks"`
}

func (d *daemon) status() status {
	d.t.Helper()
	return ask[status](d, "status")
}

// drops returns the count of one reason since the daemon was ready.
func (d *daemon) drops(network string, dir dataplane.Direction, reason dataplane.Drop) uint64 {
	d.t.Helper()
	for _, r := range d.dropped() {
		if r.Network == network && r.Direction == dir && r.Reason == reason {
			return r.Count
		}
	}
	return 0
}

// dropped returns what was dropped since the daemon was ready. Before, what the
// peers sent came to a TAP that was still down.
func (d *daemon) dropped() (since []dataplane.DropStats) {
	d.t.Helper()
	for _, now := range d.stats().Drops {
		for _, was := range d.early {
			if was.Network == now.Network && was.Direction == now.Direction && was.Reason == now.Reason {
				now.Count -= was.Count
			}
		}
		if now.Count > 0 {
			since = append(since, now)
		}
	}
	return since
}

// refused runs a daemon that must not start: exit code 1 and a sentence that
// has all of want, and the host is as before: links, addresses, routes.
func refused(t testing.TB, h *netlab.Host, c config, want ...string) {
	t.Helper()
	file, socket := prepare(t, c)
	same := unchanged(t, h)
	cmd := h.Command(program(t), "run", "--config", file).KillWithParent()
	log := &journal{}
	cmd.Stderr, cmd.Env = log, environ()
	check(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the daemon ended with %v, want exit code 1", err)
	}
	for _, w := range want {
		if !strings.Contains(log.String(), w) {
			t.Errorf("it does not say %q:\n%s", w, log)
		}
	}
	if alarming.MatchString(log.String()) {
		t.Errorf("its log:\n%s", log)
	}
	same("a daemon that does not start")
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a control socket is left: %v", err)
	}
}
