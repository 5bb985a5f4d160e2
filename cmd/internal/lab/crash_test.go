package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

// damages are the ways to break a lab that is up.
var damages = []struct {
	name, wrong string
	inflict     func(t *testing.T)
}{
	{"daemon killed", "overtap in host a is gone", func(t *testing.T) {
		s, err := vxlanTopology().readState()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Daemons[0].signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for s.Daemons[0].alive() {
			time.Sleep(time.Millisecond)
		}
	}},
	{"state lost", "its state is lost", func(t *testing.T) {
		if err := os.RemoveAll("/run/overtap"); err != nil {
			t.Fatal(err)
		}
	}},
	{"state garbled", "its state is lost", func(t *testing.T) {
		if err := os.WriteFile(vxlanTopology().file("lab.json"), []byte("{"), 0o644); err != nil {
			t.Fatal(err)
		}
	}},
	{"namespaces lost", "the namespace of a is gone", func(t *testing.T) {
		names, err := filepath.Glob("/run/netns/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if err := errors.Join(unix.Unmount(n, unix.MNT_DETACH), os.Remove(n)); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{"earlier boot", "its state is lost", func(t *testing.T) {
		s, err := vxlanTopology().readState()
		if err != nil {
			t.Fatal(err)
		}
		s.Boot = "another"
		if err := vxlanTopology().writeState(s); err != nil {
			t.Fatal(err)
		}
	}},
}

func TestDamagedLab(t *testing.T) {
	root(t)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			root(t)
			ok(t, "lab", "up")
			d.inflict(t)
			wants(t, ok(t, "lab", "list"), "damaged", d.wrong)
			wants(t, ok(t, "lab", "down"), "Lab vxlan is down: ")
			checkNothingLeft(t)

			ok(t, "lab", "up")
			d.inflict(t)
			wants(t, ok(t, "lab", "up"), "Lab vxlan is damaged ("+d.wrong+")", "It is up.", "3 of 3")
			ok(t, "lab", "down")
		})
	}
}

// A lab whose building was stopped.
func TestHalfBuilt(t *testing.T) {
	root(t)
	for _, verb := range []string{"up", "down"} {
		l, err := netlab.New("vxlan")
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.AddHost("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.AddBridge(netlab.SiteBridge, 0); err != nil {
			t.Fatal(err)
		}
		// A process that no note names.
		if _, err := a.Command("sleep", "1000").Detach(os.DevNull); err != nil {
			t.Fatal(err)
		}
		// As when the process died between making the file and mounting.
		if err := os.WriteFile("/run/netns/ot-vxlan-b", nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(vxlanTopology().dir(), 0o755); err != nil {
			t.Fatal(err)
		}
		ok(t, "lab", verb)
		if verb == "up" {
			ok(t, "lab", "down")
		}
		checkNothingLeft(t)
	}
}

// Up is killed at whatever it is doing.
func TestUpKilled(t *testing.T) {
	root(t)
	midway := 0
	for i, after := range []time.Duration{5, 15, 30, 45, 60, 80, 100, 130, 160, 200} {
		cmd := program("lab", "up", "--peer", "overtap")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		cmd.Process.Kill()
		if err := cmd.Wait(); err != nil && vxlanTopology().hasFiles() {
			midway++
		}
		if i%2 == 0 {
			wants(t, ok(t, "lab", "up"), "3 of 3", "Try next")
		}
		ok(t, "lab", "down")
		checkNothingLeft(t)
	}
	if midway == 0 {
		t.Error("up was never killed midway")
	}
}

// Up that is interrupted takes down what it has built, and says so in one line.
func TestUpInterrupted(t *testing.T) {
	root(t)
	interrupted := 0
	for _, after := range []time.Duration{20, 50, 80, 120} {
		cmd := program("lab", "up")
		// As Ctrl-C does: the signal is for the whole process group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		switch err := cmd.Wait(); {
		case err == nil:
			ok(t, "lab", "down") // it was done already
		case !strings.Contains(out.String(), "Building"):
			// The program was not yet ready to be interrupted.
		default:
			interrupted++
			if want := "overtap: lab vxlan: interrupted; everything was removed again\n"; errs.String() != want || strings.Count(out.String(), "\n") != 1 {
				t.Errorf("after %v ms it printed %q and %q; want one line and %q", int(after), out.String(), errs.String(), want)
			}
		}
		checkNothingLeft(t)
	}
	if interrupted == 0 {
		t.Error("up was never interrupted")
	}
}

// An id that another process has by now is left alone.
func TestRecycledProcess(t *testing.T) {
	root(t)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	p, err := newProcess("a", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	topology := vxlanTopology()
	if err := os.MkdirAll(topology.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	p.Start--
	if err := topology.writeState(state{Boot: bootID(), Daemons: []process{p}}); err != nil {
		t.Fatal(err)
	}
	wants(t, ok(t, "lab", "down"), "0 daemons")
	p.Start++
	time.Sleep(50 * time.Millisecond)
	if !p.alive() {
		t.Error("another process was killed")
	}
}

// A process that ignores SIGTERM is killed, and one that is a zombie counts as
// gone. Its name must not confuse what /proc says of it.
func TestEndProcesses(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(t.TempDir(), "a) Z 1 (")
	if err := os.Symlink(sh, odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(odd, "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	p, err := newProcess("a", cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.alive() {
		t.Fatal("a process that lives is said not to")
	}
	start := time.Now()
	if err := endProcesses([]process{p}); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < termGrace || took > termGrace+killGrace {
		t.Errorf("it took %v", took)
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID)); err != nil || !strings.Contains(string(stat), ") Z ") {
		t.Errorf("it is no zombie: %s, %v", stat, err)
	}
	if p.alive() {
		t.Error("a zombie is said to live")
	}
}
