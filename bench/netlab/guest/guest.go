package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

const (
	bridge = "br0"
	tap    = "tap0"

	// bootTime is how long the guest may take to boot. It takes two to three
	// seconds on an idle machine.
	bootTime = 90 * time.Second
	// endTime is how long QEMU may take to end after it was killed.
	endTime = 10 * time.Second
)

// ErrEnded means that the guest does not run any more.
var ErrEnded = errors.New("the guest has ended")

// Guest is a virtual machine with its one device on a bridge of a namespace of
// its own. Join and Reset must not be called at once; the other methods may be,
// from any goroutine.
type Guest struct {
	host    *netlab.Host
	cmd     *netlab.Cmd
	dir     string        // of temporary files
	console output        // of the kernel, init and QEMU
	ended   chan struct{} // closed when QEMU is gone

	mu     sync.Mutex // of a request and its answer
	line   net.Conn   // to the guest's second serial line
	in     *bufio.Reader
	number int
	ports  []string // of the bridge, without the TAP
}

// output collects what QEMU writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String returns what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Start boots a guest in a new host of the lab and waits until it takes
// commands. It has no link to other hosts yet: see Join. The lab's Destroy ends
// it too, and so does the end of this process. The error is ErrNotBuilt when
// kernel and initramfs are missing.
func Start(ctx context.Context, lab *netlab.Lab, name string) (*Guest, error) {
	from, err := image()
	if err != nil {
		return nil, err
	}
	host, err := lab.AddHost(name)
	if err != nil {
		return nil, err
	}
	if err := host.AddBridge(bridge, 0); err != nil {
		return nil, err
	}
	g := &Guest{host: host, ended: make(chan struct{})}
	if err := g.boot(ctx, from); err != nil {
		return nil, fmt.Errorf("boot guest %s: %w\n%s", name, errors.Join(err, g.Close()), g.Console())
	}
	return g, nil
}

func (g *Guest) boot(ctx context.Context, image string) (err error) {
	if g.dir, err = os.MkdirTemp("", "overtap-guest"); err != nil {
		return err
	}
	initrd, err := writeInitrd(image, g.dir)
	if err != nil {
		return err
	}
	theirs, err := g.openLine()
	if err != nil {
		return err
	}
	defer theirs.Close()
	mac := make(net.HardwareAddr, 6)
	for i := range mac {
		mac[i] = byte(rand.Uint32())
	}
	mac[0] = 0x02 // locally administered
	g.cmd = g.host.Command("qemu-system-x86_64",
		"-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", initrd,
		// Where this machine is busy the guest's clock looks broken to its kernel.
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check",
		"-serial", "stdio",
		"-chardev", "socket,id=line,fd=3", "-serial", "chardev:line",
		"-netdev", "tap,id=net,ifname="+tap+",script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=net,romfile=,mac="+mac.String()).KillWithParent()
	g.cmd.Stdout, g.cmd.Stderr = &g.console, &g.console
	g.cmd.ExtraFiles = []*os.File{theirs}
	if err := g.cmd.Start(); err != nil {
		g.cmd = nil
		return err
	}
	go func() {
		g.cmd.Wait()
		close(g.ended)
	}()

	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	defer g.interrupt(ctx)()
	said, err := g.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("wait for its init: %w", g.why(ctx, err))
	}
	if said != "ready\n" {
		return fmt.Errorf("wait for its init: it says %q", said)
	}
	if err := g.host.SetMaster(tap, bridge); err != nil {
		return err
	}
	return g.host.SetUp(tap)
}

// openLine makes the two ends of the second serial line, and returns QEMU's.
func (g *Guest) openLine() (theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the guest's serial line: %w", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "line")
	ours := os.NewFile(uintptr(pair[0]), "line")
	defer ours.Close() // FileConn makes a copy
	if g.line, err = net.FileConn(ours); err != nil {
		theirs.Close()
		return nil, fmt.Errorf("make the guest's serial line: %w", err)
	}
	g.in = bufio.NewReader(g.line)
	return theirs, nil
}

// interrupt has the end of the context end what waits for the serial line. The
// function that it returns gives that up.
func (g *Guest) interrupt(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { g.line.SetDeadline(time.Unix(1, 0)) })
}

// why returns the cause for which the serial line failed.
func (g *Guest) why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrEnded, err)
}

// StatusError is how a script ended that did not end with status 0.
type StatusError struct {
	Script  string
	Status  int
	Printed string // on both its outputs
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the guest's %q ends with status %d: %s", e.Script, e.Status, strings.TrimSpace(e.Printed))
}

// Run has the guest's shell run a script, stopping at the first command that
// fails, and returns what it printed. Another status than 0 is a *StatusError.
// A script that outlasts the context ends the guest: there is no other way to
// be sure that the next one finds it idle.
func (g *Guest) Run(ctx context.Context, script string) (printed string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.Running() {
		return "", ErrEnded
	}
	g.number++
	defer g.interrupt(ctx)()
	status, printed, err := g.exchange(script)
	if err != nil {
		err = fmt.Errorf("have the guest run %q: %w", script, g.why(ctx, err))
		return "", errors.Join(err, g.end())
	}
	if status != 0 {
		return printed, &StatusError{script, status, printed}
	}
	return printed, nil
}

func (g *Guest) exchange(script string) (status int, printed string, err error) {
	request := base64.StdEncoding.EncodeToString([]byte(script + "\n"))
	if _, err := fmt.Fprintf(g.line, "%d %s\n", g.number, request); err != nil {
		return 0, "", err
	}
	answer, err := g.in.ReadString('\n')
	if err != nil {
		return 0, "", err
	}
	f := strings.Split(strings.TrimSuffix(answer, "\n"), " ")
	if len(f) != 3 || f[0] != strconv.Itoa(g.number) {
		return 0, "", fmt.Errorf("it answers %q to request %d", answer, g.number)
	}
	if status, err = strconv.Atoi(f[1]); err != nil {
		return 0, "", fmt.Errorf("it answers %q to request %d", answer, g.number)
	}
	b, err := base64.StdEncoding.DecodeString(f[2])
	if err != nil {
		return 0, "", fmt.Errorf("what the script printed: %w", err)
	}
	return status, string(b), nil
}

// Running reports whether the guest can be asked to do something.
func (g *Guest) Running() bool {
	select {
	case <-g.ended:
		return false
	default:
		return true
	}
}

// Console returns what the guest's kernel and init, and QEMU, have written so
// far.
func (g *Guest) Console() string { return g.console.String() }

// Host returns the host that the guest's bridge and TAP are in.
func (g *Guest) Host() *netlab.Host { return g.host }

// end ends QEMU.
func (g *Guest) end() error {
	if g.cmd == nil {
		return nil
	}
	g.cmd.Process.Kill() // no error but that it has ended
	select {
	case <-g.ended:
		return nil
	case <-time.After(endTime):
		return fmt.Errorf("QEMU, process %d, does not end", g.cmd.Process.Pid)
	}
}

// Close ends the guest. Its host stays, until its lab is destroyed. Doing it
// twice is no error.
func (g *Guest) Close() error {
	err := g.end()
	if g.line != nil {
		if e := g.line.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	if g.dir != "" {
		err = errors.Join(err, os.RemoveAll(g.dir))
	}
	return err
}
