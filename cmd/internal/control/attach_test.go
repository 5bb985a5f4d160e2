package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/attach"
)

// What the client has open arrives as the same file, and not as the same number
// of the daemon's.
func TestAttach(t *testing.T) {
	f := &fake{}
	socket, _ := serve(t, f)
	c, ctx := NewClient(socket), t.Context()
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	want, err := ns.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r := attach.Request{
		Network: "blue", Target: "web", IfName: "eth1", MAC: 0x02420a000104,
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("198.51.100.1")},
	}
	m, err := c.Attach(ctx, ns, r)
	if err != nil || m.IfName != "eth0" || m.Addresses == nil || m.Gateways == nil {
		t.Errorf("attach: %+v, %v", m, err)
	}
	if !reflect.DeepEqual(f.got().request, r) || !os.SameFile(f.got().ns, want) {
		t.Errorf("the daemon got %+v", f.got().request)
	}
	s := attach.Selector{Network: "blue", Target: "web", IfName: "eth1"}
	if a, err := c.Detach(ctx, ns, s); err != nil || a.Network != "blue" || f.got().selector != s || !os.SameFile(f.got().ns, want) {
		t.Errorf("detach: %+v, %v; the daemon got %+v", a, err, f.got().selector)
	}
	if _, err := c.Detach(ctx, nil, s); err != nil || f.got().ns != nil {
		t.Errorf("detach without a namespace: %v", err)
	}
}

func TestAttachBadRequests(t *testing.T) {
	socket, _ := serve(t, &fake{})
	for _, tc := range []struct{ path, body, want string }{
		{pathAttach, `{}`, "no namespace was handed over"},
		{pathAttach, `{"addresses":["198.51.100.2"]}`, "reading the request"},
		{pathAttach, `{"colour":"blue"}`, "unknown field"},
		{pathDetach, `{"namespace_handed_over":true}`, "no namespace was handed over"},
		{pathDetach, `{"colour":"blue"}`, "unknown field"},
	} {
		if code, body := raw(t, socket, http.MethodPost, tc.path, tc.body); code != http.StatusBadRequest || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s", tc.path, tc.body, code, body)
		}
	}
}

// Unexpected files are closed with their connection, however many.
func TestHandedOverFilesAreClosed(t *testing.T) {
	socket, stop := serve(t, &fake{})
	count := func() int {
		t.Helper()
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := count()
	for range 5 {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		fds := make([]int, 3*maxHanded)
		for i := range fds {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.WriteMsgUnix([]byte("GET "+pathStatus+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	stop()
	for deadline := time.Now().Add(5 * time.Second); count() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files are open, %d before", count(), before)
		}
	}
}

// The daemon hears of a client that goes, so that it can undo.
func TestAttachGivenUp(t *testing.T) {
	f := &fake{gave: make(chan error, 1)}
	socket, _ := serve(t, f)
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient(socket).Attach(ctx, ns, attach.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client: %v", err)
	}
	select {
	case err := <-f.gave:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the daemon: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the daemon does not hear of it")
	}
}

// An attachment may take longer than a client may take to ask for it.
func TestAttachSlow(t *testing.T) {
	t.Parallel()
	socket, _ := serve(t, &fake{slow: readTimeout + time.Second})
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := NewClient(socket).Attach(t.Context(), ns, attach.Request{}); err != nil {
		t.Error(err)
	}
}
