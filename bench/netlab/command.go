package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Cmd is an exec.Cmd that starts inside a host's namespace. Only the methods
// below start it there; Wait and the pipes are those of exec.Cmd.
type Cmd struct {
	*exec.Cmd
	host *Host
}

// Command prepares a program to run inside the namespace: it sees the host's
// links, addresses and /proc/sys/net, and this machine's files.
func (h *Host) Command(name string, args ...string) *Cmd {
	return &Cmd{exec.Command(name, args...), h}
}

// Start is exec.Cmd.Start. Linux gives a child the namespace of the thread that
// forks it.
func (c *Cmd) Start() error { return c.host.Do(c.Cmd.Start) }

// Run is exec.Cmd.Run.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd.Output.
func (c *Cmd) Output() (out []byte, err error) {
	err = c.host.Do(func() (err error) {
		out, err = c.Cmd.Output()
		return err
	})
	return out, err
}

// CombinedOutput is exec.Cmd.CombinedOutput.
func (c *Cmd) CombinedOutput() (out []byte, err error) {
	err = c.host.Do(func() (err error) {
		out, err = c.Cmd.CombinedOutput()
		return err
	})
	return out, err
}

// KillWithParent has the kernel kill the program when this process dies, even
// by SIGKILL. For tests: it is of no use with Detach.
func (c *Cmd) KillWithParent() *Cmd {
	c.attr().Pdeathsig = syscall.SIGKILL
	return c
}

// Detach starts the program in a session of its own, writing to the file log,
// which is truncated, and lets it outlive this process. It returns its id. The
// lab's Destroy ends it.
func (c *Cmd) Detach(log string) (pid int, err error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	c.Stdin, c.Stdout, c.Stderr = nil, f, f
	c.attr().Setsid = true
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("host %s: start %s: %w", c.host.name, c.Path, err)
	}
	pid = c.Process.Pid
	// Reap it should it end before this process does.
	go c.Process.Wait()
	return pid, nil
}

func (c *Cmd) attr() *syscall.SysProcAttr {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	return c.SysProcAttr
}
