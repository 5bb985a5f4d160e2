package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Of daemons that start at once on the socket of one that died, exactly one listens,
// and its socket stays.
func TestStartsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	for round := range 50 {
		var mu sync.Mutex
		var got []*Listener
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				l, err := Listen(path)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					got = append(got, l)
				} else if !errors.Is(err, ErrAnswered) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(got) != 1 {
			t.Fatalf("round %d: %d listen, want 1", round, len(got))
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		c.Close()
		if err := got[0].Close(); err != nil { // without Remove, as one that is killed
			t.Fatal(err)
		}
	}
}

// A daemon that ends late does not remove the socket of the one that follows.
func TestRemovesItsOwnSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	old, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Remove(); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal("the socket of the next is gone: ", err)
	}
	c.Close()
	if err := errors.Join(next.Close(), next.Remove()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("%v are left (%v)", left, err)
	}
}

// A lock file that another user may have placed is not locked.
func TestForeignLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	if err := os.WriteFile(path+".lock", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err == nil {
		l.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "may be another user's work") {
		t.Error(err)
	}
}
