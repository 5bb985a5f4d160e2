package daemon

import (
	"bytes"
	"context"
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

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/netnstest"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// running is a daemon under test.
type running struct {
	engine *fakeEngine
	client *control.Client
	socket string
	log    *buffer
	stop   context.CancelFunc
	err    chan error // what Run returned
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const twoNetworks = `
[[vxlan]]
name = "blue"
vni = 100
bridge = "br-blue"
addresses = ["198.51.100.1/24"]
  [[vxlan.peer]]
  address = "192.0.2.2"
  [[vxlan.fdb]]
  mac = "02:42:0a:00:01:04"
  peer = "192.0.2.2"
[[vxlan]]
name = "red"
vni = 101
`

// underlay gives the namespace the address that the configurations name.
func underlay(t *testing.T) {
	t.Helper()
	netnstest.Require(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "u1"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "u2"}
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkAdd(veth), netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// By name: the test may have made it again.
		l, err := netlink.LinkByName("u1")
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// prepare returns a daemon that is not started yet.
func prepare(t *testing.T, networks string) (*running, Options) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	text := fmt.Sprintf("[underlay]\naddress = \"192.0.2.1\"\n[control]\nsocket = %q\nmetrics = \"127.0.0.1:9472\"\n%s", socket, networks)
	cfg, err := config.Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{
		engine: newFakeEngine(t), client: control.NewClient(socket), socket: socket,
		log: new(buffer), err: make(chan error, 1),
	}
	return r, Options{
		Config: cfg, Path: "test.toml", Version: "v1",
		Log:       slog.New(slog.NewTextHandler(r.log, nil)),
		NewEngine: func(linux.Options, dataplane.Options) (Engine, error) { return r.engine, nil },
	}
}

// start runs the daemon and waits for it to be ready.
func start(t *testing.T, r *running, o Options) {
	t.Helper()
	begin(t, r, o)
	eventually(t, "ready", func() bool { return strings.Contains(r.log.String(), "msg=ready") })
}

// begin runs the daemon.
func begin(t *testing.T, r *running, o Options) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.err <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.err:
		case <-r.engine.closed:
		case <-time.After(10 * time.Second):
			t.Error("the daemon does not end")
		}
	})
}

// end stops the daemon and returns what Run returned.
func (r *running) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.err:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon does not end")
		return nil
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// links lists the namespace's devices.
func links(t *testing.T) string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestRun(t *testing.T) {
	underlay(t)
	defer goleak.VerifyNone(t)
	before := links(t)
	notified := notifySocket(t)
	r, o := prepare(t, twoNetworks)
	r.engine.state = []dataplane.OffloadInfo{
		{Name: "tap_gso", State: dataplane.OffloadSuspended, Reason: "refused by vx-blue: EINVAL; packets are written to it one by one", Until: time.Now().Add(time.Minute)},
		{Name: "udp_segment", State: dataplane.OffloadSuspended, Reason: "the route to 192.0.2.2 refused it: EIO", Until: time.Now().Add(time.Minute)},
		{Name: "udp_gro", State: dataplane.OffloadUnsupported, Reason: "the kernel does not have it"},
		{Name: "join_udp", State: dataplane.OffloadOff, Reason: "by configuration"},
	}
	start(t, r, o)

	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Ready || !reflect.DeepEqual(s.Offloads[2:], r.engine.state[2:]) || s.Version != "v1" || s.Underlay.MTU != 1500 || len(s.Networks) != 2 ||
		s.Networks[0].Bridge != "br-blue" || s.Networks[0].MTU != 1450 || s.Networks[0].Entries != 1 || s.PID != os.Getpid() {
		t.Errorf("status: %+v", s)
	}
	for want, count := range map[string]int{
		"segmentation offload (udp_segment) is given up until": 1, "the route to 192.0.2.2 refused it: EIO; look at": 1,
		"udp_gro is not at work: the kernel does not have it": 1, "join_udp": 0,
		"tap_gso is given up until": 1, "refused by vx-blue: EINVAL; packets are written to it one by one: nothing is lost": 1,
	} {
		if got := strings.Count(strings.Join(s.Warnings, "\n"), want); got != count {
			t.Errorf("%q stands %d times in the warnings, want %d: %q", want, got, count, s.Warnings)
		}
	}
	if br, err := netlink.LinkByName("br-blue"); err != nil || br.Attrs().MTU != 1450 {
		t.Errorf("bridge: %v, %v", br, err)
	}
	resp, err := http.Get("http://127.0.0.1:9472/readyz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "ready\n" {
		t.Errorf("readyz: %q, %v", body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if got := notified(); got != "READY=1" {
		t.Errorf("notified %q", got)
	}

	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if got := notified(); got != "STOPPING=1" {
		t.Errorf("notified %q", got)
	}
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
	if _, err := os.Stat(filepath.Dir(r.socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory is left: %v", err)
	}
}

// notifySocket stands in for systemd.
func notifySocket(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		b := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
}

// A step that fails undoes those before it.
func TestFailureUndoes(t *testing.T) {
	underlay(t)
	for _, tc := range []struct {
		name string
		fail func(t *testing.T, r *running, o *Options)
		want string
	}{
		{"no underlay, and more", func(_ *testing.T, _ *running, o *Options) {
			o.Config.Underlay.Device = "eth9"
			o.Config.VXLAN[0].Device = "lo"
		}, "the underlay device eth9 does not exist"},
		{"mtu", func(t *testing.T, _ *running, o *Options) {
			o.Config.VXLAN[0].MTU = 1451
		}, "the underlay's MTU of 1500 leaves room for 1450"},
		{"metrics", func(t *testing.T, _ *running, _ *Options) {
			l, err := net.Listen("tcp", "127.0.0.1:9472")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "listening for metrics (control.metrics): listen tcp 127.0.0.1:9472"},
		{"engine", func(_ *testing.T, _ *running, o *Options) {
			o.NewEngine = func(linux.Options, dataplane.Options) (Engine, error) { return nil, errors.New("no threads") }
		}, "starting the engine: no threads"},
		{"apply", func(_ *testing.T, r *running, _ *Options) {
			r.engine.refuse = func(dataplane.Desired) error { return errors.New("no sockets") }
		}, "applying the configuration: no sockets"},
		{"host", func(_ *testing.T, _ *running, o *Options) {
			// A name that only the kernel refuses.
			o.Config.VXLAN[1].Bridge = "br/red"
		}, "setting the host up: network red: creating the bridge br/red"},
		{"port missing", func(_ *testing.T, _ *running, o *Options) {
			o.Config.VXLAN[0].Ports = []string{"eth9"}
		}, "network blue: the port eth9 does not exist"},
		{"port that bears", func(_ *testing.T, _ *running, o *Options) {
			o.Config.VXLAN[0].Ports = []string{"u1"}
		}, "network blue: the port u1 carries the underlay address 192.0.2.1"},
		{"next hop", func(_ *testing.T, _ *running, o *Options) {
			o.Config.Routes = []config.Route{{Prefix: netip.MustParsePrefix("172.246.0.0/24"), Via: addr("203.0.113.9")}}
		}, "the next hop of the route 172.246.0.0/24 via 203.0.113.9 cannot be reached"},
		{"route taken", func(_ *testing.T, _ *running, o *Options) {
			o.Config.VXLAN[0].Routes = []config.Route{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Via: addr("198.51.100.9")}}
		}, "network blue: the route 192.0.2.0/24 via 198.51.100.9 would hide one that is there already, 192.0.2.0/24 dev u1 proto kernel"},
		{"socket", func(t *testing.T, r *running, _ *Options) {
			// The directory's place is taken by a file.
			if err := os.WriteFile(filepath.Dir(r.socket), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "control socket"},
		{"socket's directory", func(t *testing.T, r *running, o *Options) {
			o.Config.Control.Socket = "/proc/overtap/run/control.sock"
			// Not reached: it is found before anything is made.
			o.NewEngine = func(linux.Options, dataplane.Options) (Engine, error) { return nil, errors.New("the engine starts") }
		}, "making the control socket's directory: mkdir /proc/overtap: no such file or directory: make it, or set control.socket to another path"},
		{"other daemon", func(t *testing.T, r *running, o *Options) {
			o.NoTakeover = true
			l, err := control.Listen(r.socket)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "another overtap daemon answers at"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			before := links(t)
			r, o := prepare(t, twoNetworks)
			tc.fail(t, r, &o)
			err := Run(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error: %v; want %q", err, tc.want)
			}
			if after := links(t); after != before {
				t.Errorf("links before: %s\nafter: %s", before, after)
			}
			if _, err := os.Stat(filepath.Dir(r.socket)); tc.name == "mtu" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket's directory is left: %v", err)
			}
			if strings.Contains(r.log.String(), "ready") {
				t.Errorf("log: %s", r.log)
			}
		})
	}
}

// Whatever the level of the log, it says when traffic flows.
func TestReadyIsAlwaysSaid(t *testing.T) {
	underlay(t)
	r, o := prepare(t, twoNetworks)
	o.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelError}))
	start(t, r, o)
	if err := r.end(t); err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.log.String(), "\n"); n != 1 || !strings.Contains(r.log.String(), "level=INFO msg=ready version=v1 ") {
		t.Errorf("log: %s", r.log)
	}
}

// The default metrics listener may be taken.
func TestDefaultMetricsTaken(t *testing.T) {
	underlay(t)
	l, err := net.Listen("tcp", "127.0.0.1:9472")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, o := prepare(t, twoNetworks)
	o.Config.Control.MetricsDefault = true
	start(t, r, o)
	if !strings.Contains(r.log.String(), "the default listener cannot be had") {
		t.Errorf("log: %s", r.log)
	}
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}

// An end that comes during the start is a clean one.
func TestEndDuringStart(t *testing.T) {
	underlay(t)
	before := links(t)
	r, o := prepare(t, twoNetworks)
	ctx, cancel := context.WithCancel(t.Context())
	r.engine.refuse = func(dataplane.Desired) error { cancel(); return nil }
	if err := Run(ctx, o); err != nil {
		t.Error(err)
	}
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
	if strings.Contains(r.log.String(), "ready") {
		t.Errorf("log: %s", r.log)
	}
	if _, err := os.Stat(filepath.Dir(r.socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory is left: %v", err)
	}
}

// What fails while taking down is reported, and the rest is taken down all the same.
func TestUndoGoesOn(t *testing.T) {
	underlay(t)
	before := links(t)
	r, o := prepare(t, twoNetworks)
	r.engine.closeErr = errors.New("a thread hangs")
	start(t, r, o)
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "stopping the engine: a thread hangs") {
		t.Errorf("error: %v", err)
	}
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
}
