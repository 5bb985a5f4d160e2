package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/attach"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// fake is a daemon with one network and no state but what it was asked. The lock is
// for the race detector, which does not see that a file handed over with a request
// also orders what was before it (recvmsg).
type fake struct {
	mu      sync.Mutex
	entries []dataplane.FDBEntry
	neighs  []dataplane.NeighborEntry
	added   Entry
	deleted encap.MAC
	match   Match

	request  attach.Request
	selector attach.Selector
	ns       os.FileInfo // handed over; nil = none
	gave     chan error  // when not nil, Attach waits for the client to go
	slow     time.Duration
	reloads  int
	ended    chan error // delivers what ended WatchFDB or Capture
	mirror   dataplane.MirrorSpec
	hands    []int      // files that HandOver sends
	handed   chan error // delivers what HandOver was answered
}

func (f *fake) Status() Status { return Status{Version: "v1", Networks: []NetworkStatus{{}}} }

// HandOver offers two entries and a file, and returns the answer.
func (f *fake) HandOver(s *Handover) {
	err := errors.Join(s.Send("offer", []string{"a", "b"}), s.SendFiles(f.hands))
	if err == nil {
		err = s.Receive("commit", nil)
	}
	f.handed <- err
}

func (f *fake) Stats() dataplane.Stats { return dataplane.Stats{} }

func (f *fake) FDB(network string) ([]dataplane.FDBEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if network == "red" {
		return nil, errors.New(`there is no network "red": name one of blue`)
	}
	return f.entries, nil
}

func (f *fake) FDBPage(q FDBQuery) (FDBPage, error) {
	return q.Page(each(f.FDB))
}

// each calls f with the entries that all returns.
func each(all func(network string) ([]dataplane.FDBEntry, error)) func(string, func(*dataplane.FDBEntry)) error {
	return func(network string, f func(*dataplane.FDBEntry)) error {
		entries, err := all(network)
		for i := range entries {
			f(&entries[i])
		}
		return err
	}
}

func (f *fake) Neighbors(network string) ([]dataplane.NeighborEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if network == "red" {
		return nil, errors.New(`there is no network "red": name one of blue`)
	}
	return f.neighs, nil
}

func (f *fake) AddFDB(e Entry) (Added, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.added = e
	return Added{Network: e.Network, Admits: true}, nil
}

func (f *fake) DeleteFDB(network string, mac encap.MAC) (Deleted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = mac
	return Deleted{Network: network, Peer: netip.MustParseAddr("192.0.2.2"), Origin: "learned"}, nil
}

func (f *fake) FlushFDB(m Match) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match = m
	return 3, nil
}

// Resolve knows one network's addresses, and no MAC.
func (f *fake) Resolve(network string, a netip.Addr) (Resolved, error) {
	if network != "blue" {
		return Resolved{}, errors.New("there is no such network")
	}
	return Resolved{Network: network, Source: a.Next()}, nil
}

func (f *fake) Cluster() (Cluster, error) {
	return Cluster{Backend: "gossip", Node: "a", Members: []ClusterMember{{Node: "a", Self: true, Alive: true}}}, nil
}

// Explain returns the length of the query's frame.
func (f *fake) Explain(p dataplane.Query) (dataplane.Explanation, error) {
	if p.Network != "blue" {
		return dataplane.Explanation{}, errors.New("there is no such network")
	}
	return dataplane.Explanation{
		Network: p.Network, Direction: dataplane.Inbound, Verdict: dataplane.OutcomeDropped, Reason: dataplane.DropTooBig,
		Steps: []dataplane.Step{{Name: "size", Verdict: "drop", Reason: dataplane.DropTooBig, Detail: fmt.Sprint(len(p.Frame))}},
	}, nil
}

func (f *fake) WatchFDB(ctx context.Context, network string, emit func([]dataplane.FDBChange, uint64) error) error {
	if network == "green" {
		return errors.New("there is no such network")
	}
	err := emit(nil, 0)
	for i := 0; err == nil && ctx.Err() == nil; i++ {
		err = emit([]dataplane.FDBChange{{Network: "blue", Event: "learn", MAC: encap.MAC(i)}}, uint64(i))
		time.Sleep(time.Millisecond)
	}
	f.ended <- err
	return err
}

func (f *fake) Reload(dryRun bool) (Reloaded, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if dryRun {
		return Reloaded{Added: []string{"green"}, DryRun: true}, nil
	}
	f.reloads++
	if f.reloads > 1 {
		return Reloaded{}, errors.New("it is wrong")
	}
	return Reloaded{Added: []string{"red"}}, nil
}

func (f *fake) Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	if f.gave != nil {
		<-ctx.Done()
		f.gave <- ctx.Err()
		return attach.Made{}, ctx.Err()
	}
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
		return attach.Made{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.request = r
	var err error
	if f.ns, err = ns.Stat(); err != nil {
		return attach.Made{}, err
	}
	return attach.Made{Attachment: attach.Attachment{Network: r.Network, IfName: "eth0"}}, nil
}

func (f *fake) Detach(ns *os.File, s attach.Selector) (attach.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.selector, f.ns = s, nil
	if ns != nil {
		var err error
		if f.ns, err = ns.Stat(); err != nil {
			return attach.Attachment{}, err
		}
	}
	return attach.Attachment{Network: s.Network}, nil
}

// got is what the daemon was asked, as it stands.
func (f *fake) got() *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &fake{entries: f.entries, neighs: f.neighs, added: f.added, deleted: f.deleted, match: f.match,
		request: f.request, selector: f.selector, ns: f.ns}
}

// serve runs a server until the test's end, or until the returned function is
// called, which shows how long it took.
func serve(t *testing.T, d Daemon) (socket string, stop func() time.Duration) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, d, slog.New(slog.DiscardHandler)) }()
	stopped := false
	stop = func() time.Duration {
		if stopped {
			return 0
		}
		stopped = true
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		took := time.Since(start)
		if err := errors.Join(l.Close(), l.Remove()); err != nil {
			t.Error(err)
		}
		return took
	}
	t.Cleanup(func() { stop() })
	return socket, stop
}

func TestRoundTrip(t *testing.T) {
	defer goleak.VerifyNone(t)
	const mac = encap.MAC(0x02420a000104)
	peer := netip.MustParseAddr("192.0.2.2")
	f := &fake{entries: []dataplane.FDBEntry{{Network: "blue", VNI: 100, MAC: mac, Peer: peer, Port: 4789, Origin: "learned", Age: 7}}}
	socket, stop := serve(t, f)
	defer stop()
	c, ctx := NewClient(socket), t.Context()

	entries, err := c.FDB(ctx, "")
	if err != nil || !reflect.DeepEqual(entries, f.got().entries) {
		t.Errorf("FDB: %v, %v", entries, err)
	}
	if _, err := c.FDB(ctx, "red"); err == nil || err.Error() != `there is no network "red": name one of blue` {
		t.Errorf("unknown network: %v", err)
	}
	f.mu.Lock()
	f.neighs = []dataplane.NeighborEntry{{Network: "blue", VNI: 100, Address: netip.MustParseAddr("2001:db8::4"), MAC: mac, Origin: "static"}}
	f.mu.Unlock()
	neighbors, err := c.Neighbors(ctx, "blue")
	if err != nil || !reflect.DeepEqual(neighbors, f.got().neighs) {
		t.Errorf("neighbours: %v, %v", neighbors, err)
	}
	if _, err := c.Neighbors(ctx, "red"); err == nil || err.Error() != `there is no network "red": name one of blue` {
		t.Errorf("neighbours of an unknown network: %v", err)
	}
	if added, err := c.AddFDB(ctx, Entry{"blue", mac, peer}); err != nil || f.got().added != (Entry{"blue", mac, peer}) ||
		added != (Added{Network: "blue", Admits: true}) {
		t.Errorf("add: %v, %v, %v", f.got().added, added, err)
	}
	if gone, err := c.DeleteFDB(ctx, "blue", mac); err != nil || f.got().deleted != mac || gone.Network != "blue" || gone.Origin != "learned" || !gone.Peer.IsValid() {
		t.Errorf("delete: %v, %v, %v", f.got().deleted, gone, err)
	}
	if n, err := c.FlushFDB(ctx, Match{Peer: peer}); err != nil || n != 3 || f.got().match != (Match{Peer: peer}) {
		t.Errorf("flush: %d, %v, %v", n, f.got().match, err)
	}
	if s, err := c.Status(ctx); err != nil || s.Version != "v1" {
		t.Errorf("status: %v, %v", s, err)
	}
}

// raw sends one request as written and returns status and body.
func raw(t *testing.T, socket, method, path, body string) (int, string) {
	t.Helper()
	hc := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// Empty lists are [], never null.
func TestNoNull(t *testing.T) {
	socket, _ := serve(t, &fake{})
	for _, path := range []string{pathStatus, pathStats, pathFDB, pathNeigh} {
		code, body := raw(t, socket, http.MethodGet, path, "")
		if code != http.StatusOK || strings.Contains(body, "null") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestBadRequests(t *testing.T) {
	socket, _ := serve(t, &fake{})
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v2/status", "", 404, "of another version than the command"},
		{"PUT", pathStatus, "", 404, "knows no PUT /v1/status"},
		{"POST", pathFDB, "{", 400, "reading the request"},
		{"POST", pathFDB, `{"mac":"zz"}`, 400, "MAC address"},
		{"POST", pathFDB, `{"colour":"blue"}`, 400, "unknown field"},
		{"POST", pathFDB, `{} {}`, 400, "more than one JSON value"},
		{"POST", pathFDB, `{"network":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "too large"},
		{"DELETE", pathFDB + "?mac=1", "", 400, "MAC address"},
	} {
		code, body := raw(t, socket, tc.method, tc.path, tc.body)
		var f failure
		if err := json.Unmarshal([]byte(body), &f); err != nil || code != tc.code || !strings.Contains(f.Error, tc.want) {
			t.Errorf("%s %s %.40s: %d %s", tc.method, tc.path, tc.body, code, body)
		}
	}
}

// A client that asks for much and reads nothing holds up neither the others nor
// the daemon's end.
func TestClientThatNeverReads(t *testing.T) {
	f := &fake{entries: make([]dataplane.FDBEntry, 200_000)}
	socket, stop := serve(t, f)
	for range 8 {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET "+pathFDB+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
	if took := stop(); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	goleak.VerifyNone(t) // they have no writer any more
}

func TestSocketFile(t *testing.T) {
	socket, stop := serve(t, &fake{})
	dir := filepath.Dir(socket)
	for path, want := range map[string]os.FileMode{socket: os.ModeSocket | 0o600, dir: os.ModeDir | 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if _, err := Listen(socket); err == nil || !strings.Contains(err.Error(), "another overtap daemon answers at "+socket) {
		t.Errorf("listening twice: %v", err)
	}
	stop()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory made for the socket is left: %v", err)
	}
}

func TestFoundDirectoryStays(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), l.Remove()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); err != nil {
		t.Error(err)
	}
}

// The file that a daemon left when it was killed is replaced.
func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = NewClient(socket).Status(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "no overtap daemon answers at "+socket) {
		t.Errorf("asking a dead daemon: %v", err)
	}
	fresh, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	fresh.Close()
}

func TestNoSocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "exists and is no socket") {
		t.Errorf("listening on a file: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file was removed: %v", err)
	}
}

// Something else that speaks on the socket is named as such.
func TestNotOvertap(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(l)
	defer srv.Close()
	_, err = NewClient(socket).Stats(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is no overtap daemon: it says 404") {
		t.Errorf("error: %v", err)
	}
}

// TryListen leaves nothing behind, nor does Close, of several directories.
func TestTryListen(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "a", "b", "control.sock")
	empty := func() {
		t.Helper()
		if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if err := TryListen(path); err != nil {
		t.Fatal(err)
	}
	empty()
	long := filepath.Join(root, "a", strings.Repeat("x", 120))
	if err := TryListen(long); err == nil || !strings.Contains(err.Error(), "set control.socket to another path") {
		t.Errorf("a path that no socket can have: %v", err)
	}
	empty()
}

func TestExplain(t *testing.T) {
	socket, _ := serve(t, &fake{})
	c := NewClient(socket)
	x, err := c.Explain(t.Context(), dataplane.Query{Network: "blue", Frame: make([]byte, netio.MaxFrame)})
	if err != nil || x.Reason != dataplane.DropTooBig || x.Direction != dataplane.Inbound || len(x.Steps) != 1 ||
		x.Steps[0].Reason != dataplane.DropTooBig || x.Steps[0].Detail != fmt.Sprint(netio.MaxFrame) {
		t.Errorf("Explain = %+v, %v", x, err)
	}
	if _, err := c.Explain(t.Context(), dataplane.Query{Network: "green"}); err == nil || err.Error() != "there is no such network" {
		t.Errorf("of an unknown network: %v", err)
	}
}

// lateListener accepts its only connection when it is closed.
type lateListener struct {
	net.Listener
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *lateListener) Accept() (c net.Conn, err error) {
	<-l.closed
	time.Sleep(10 * time.Millisecond)
	if c, l.conn = l.conn, nil; c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *lateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// A client whose connection is accepted in the moment of the end is answered.
func TestServeHTTPAnswersTheLast(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	answered := false
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { answered = true })}
	got := make(chan error, 1)
	go func() {
		_, err := io.WriteString(ours, "GET / HTTP/1.1\r\nHost: overtap\r\n\r\n")
		if err == nil {
			_, err = http.ReadResponse(bufio.NewReader(ours), nil)
		}
		got <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ServeHTTP(ctx, srv, &lateListener{conn: theirs, closed: make(chan struct{})}); err != nil {
		t.Error(err)
	}
	if !answered {
		t.Error("it ended before it answered")
	}
	ours.SetDeadline(time.Now().Add(time.Second))
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestResolve(t *testing.T) {
	socket, _ := serve(t, &fake{})
	c := NewClient(socket)
	r, err := c.Resolve(t.Context(), "blue", netip.MustParseAddr("::ffff:198.51.100.2"))
	if err != nil || r.Source != netip.MustParseAddr("198.51.100.3") {
		t.Errorf("Resolve = %+v, %v", r, err)
	}
	if _, err := c.Resolve(t.Context(), "green", netip.MustParseAddr("198.51.100.2")); err == nil || err.Error() != "there is no such network" {
		t.Errorf("another network: %v", err)
	}
	if _, err := c.Resolve(t.Context(), "blue", netip.Addr{}); err == nil || !strings.Contains(err.Error(), "want an IP address") {
		t.Errorf("no address: %v", err)
	}
}

// A daemon that has no descriptor left answers all the same.
func TestAnswersWithoutDescriptors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	checked := Checked(l)
	defer checked.release()
	// Connected beforehand: the clients are in this process, and need descriptors too.
	const clients = 5
	var conns []net.Conn
	for range clients {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var taken []int
	defer func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}()
	for {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- ServeHTTP(ctx, &http.Server{Handler: handler(&fake{}), ConnContext: withConn}, checked)
	}()
	for i, c := range conns {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET "+pathStatus+" HTTP/1.1\r\nHost: overtap\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("client %d: %v, %v", i, resp, err)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	// The reserve is whole again once there are descriptors.
	for _, fd := range taken {
		unix.Close(fd)
	}
	taken = nil
	checked.reserve.fill()
	if n := len(checked.reserve.fds); n != reserved {
		t.Errorf("%d descriptors are in reserve, want %d", n, reserved)
	}
}
