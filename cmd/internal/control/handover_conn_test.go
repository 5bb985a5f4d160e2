package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is offered arrives, more files than one message carries included, in order;
// and the answer comes back.
func TestTakeOver(t *testing.T) {
	const count = 2*filesPerMessage + 7
	f := &fake{handed: make(chan error, 1)}
	for i := range count {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, make([]byte, i), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		f.hands = append(f.hands, int(file.Fd()))
	}
	socket, _ := serve(t, f)
	s, err := NewClient(socket).TakeOver(t.Context(), "v2")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var offer []string
	if err := s.Receive("offer", &offer); err != nil || !slices.Equal(offer, []string{"a", "b"}) {
		t.Fatalf("the offer: %v, %v", offer, err)
	}
	fds, err := s.TakeFiles(count)
	if err != nil || len(fds) != count {
		t.Fatalf("%d files, %v", len(fds), err)
	}
	for i, fd := range fds {
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil || stat.Size != int64(i) {
			t.Errorf("file %d has %d bytes, %v", i, stat.Size, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d would go to programs that are executed", i)
		}
		unix.Close(fd)
	}
	if err := s.Send("commit", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-f.handed; err != nil {
		t.Errorf("the daemon: %v", err)
	}
}

// The daemon hears of one that gives up, or dies, before it commits.
func TestTakeOverGivenUp(t *testing.T) {
	for name, end := range map[string]func(s *Handover){
		"could not":       func(s *Handover) { s.Fail(os.ErrPermission) },
		"Succession":      func(s *Handover) { s.Close() },
		"got \"nothing\"": func(s *Handover) { s.send("nothing", nil, nil) },
	} {
		f := &fake{handed: make(chan error, 1)}
		socket, _ := serve(t, f)
		s, err := NewClient(socket).TakeOver(t.Context(), "v2")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Receive("offer", nil); err != nil {
			t.Fatal(err)
		}
		end(s)
		select {
		case err := <-f.handed:
			if err == nil {
				t.Errorf("%s: the daemon takes it for a commit", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the daemon waits on", name)
		}
		s.Close()
	}
}

// A program of another format is refused before anything is handed over, and a
// daemon that knows nothing of all this is named as such.
func TestTakeOverRefused(t *testing.T) {
	socket, _ := serve(t, &fake{})
	code, body := raw(t, socket, http.MethodPost, pathTakeover, `{"format":7,"version":"v9"}`)
	if code != http.StatusBadRequest || !strings.Contains(body, "by format 1, and v9 takes over by format 7") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := raw(t, socket, http.MethodPost, pathTakeover, `{"colour":"blue"}`); code != http.StatusBadRequest || !strings.Contains(body, "unknown field") {
		t.Errorf("%d %s", code, body)
	}
	if _, err := NewClient(filepath.Join(t.TempDir(), "none")).TakeOver(t.Context(), "v2"); err == nil || !strings.Contains(err.Error(), "no overtap daemon answers") {
		t.Errorf("without a daemon: %v", err)
	}
}

// A listener that is handed over is one and the same socket, and who leaves it
// removes nothing.
func TestInheritedListener(t *testing.T) {
	root := t.TempDir()
	socket := filepath.Join(root, "a", "sock")
	old, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	f, err := old.File()
	if err != nil {
		t.Fatal(err)
	}
	next, err := ListenOn(f, old.Made())
	if err != nil {
		t.Fatal(err)
	}
	// The old one may stop listening before it knows that it leaves.
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	old.Leave()
	if err := old.Remove(); err != nil {
		t.Error(err)
	}
	accepted := make(chan error, 1)
	go func() {
		c, err := next.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	if err := CheckFree(socket); err == nil {
		t.Error("no answer")
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	next.Own()
	if err := errors.Join(next.Close(), next.Remove()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A daemon that gets SIGTERM while it waits for the one whose place it takes ends at
// once, and the other goes on.
func TestTakeOverCutOff(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{})
	go func() { // a daemon that accepts the connection and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b := make([]byte, 1)
			if n, _ := c.Read(b); n == 1 {
				close(asked)
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	begun := time.Now()
	if _, err := NewClient(socket).TakeOver(ctx, "v2"); err == nil {
		t.Error("it took over from what says nothing")
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v to give up", took)
	}
}
