// Package terminal runs programs on a pseudo-terminal without a screen: what
// they draw is read and counted. terminaltest has one that understands what is
// drawn.
package terminal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit is how long a program has to end after SIGTERM.
const stopLimit = 5 * time.Second

// Terminal is a pseudo-terminal with a program on it.
type Terminal struct {
	cmd   *exec.Cmd
	drawn atomic.Int64
	read  chan struct{} // closed when all that the program drew is read
}

// Start starts the program in a session of its own, on a terminal of so many
// columns and rows (pty(7)). Close it.
func Start(cmd *exec.Cmd, columns, rows uint16) (*Terminal, error) {
	t, err := start(cmd, columns, rows)
	if err != nil {
		return nil, fmt.Errorf("start %s on a terminal: %w", cmd.Path, err)
	}
	return t, nil
}

func start(cmd *exec.Cmd, columns, rows uint16) (_ *Terminal, err error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock it: %w", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("ask for its number: %w", err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		return nil, fmt.Errorf("set its size: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &Terminal{cmd: cmd, read: make(chan struct{})}
	go func() {
		defer close(t.read)
		defer master.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := master.Read(b)
			t.drawn.Add(int64(n))
			// EIO: the last that had the terminal open has closed it.
			if err != nil {
				return
			}
		}
	}()
	return t, nil
}

// Drawn returns how many bytes the program has written.
func (t *Terminal) Drawn() int64 { return t.drawn.Load() }

// PID returns the program's id.
func (t *Terminal) PID() int { return t.cmd.Process.Pid }

// Close ends the program by SIGTERM, or by SIGKILL when it does not listen, and
// the terminal. A program that ends otherwise than with status 0 is an error.
func (t *Terminal) Close() error {
	if err := t.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", t.cmd.Path, err)
	}
	kill := time.AfterFunc(stopLimit, func() { _ = t.cmd.Process.Kill() })
	defer kill.Stop()
	err := t.cmd.Wait()
	<-t.read
	if err != nil {
		return fmt.Errorf("%s on a terminal: %w", t.cmd.Path, err)
	}
	return nil
}
