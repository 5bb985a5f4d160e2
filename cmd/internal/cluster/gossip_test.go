package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"overtap/cmd/internal/repeat"
	"overtap/dataplane"
	"overtap/encap"
	"overtap/fdb"
)

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// host is a node of a test's cluster, at 127.0.0.x.
type host struct {
	*Gossip
	log  *safeBuffer
	stop func(leave bool)
}

const testTTL = 6 * time.Second

func keyFile(t *testing.T, keys ...string) string {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(strings.Join(keys, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// freePort is one that no socket has on the loopback addresses.
func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func start(t *testing.T, key string, port uint16, name string, at byte, join ...byte) *host {
	t.Helper()
	h, err := open(key, port, name, at, vtep(at), join...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.stop(false) })
	return h
}

func vtep(at byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, at}) }

func open(key string, port uint16, name string, at byte, vtep netip.Addr, join ...byte) (*host, error) {
	log := new(safeBuffer)
	o := Options{
		Node: Node{Name: name, VTEP: vtep, Version: "test"}, KeyFile: key, TTL: testTTL,
		Bind: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, at}), port),
		Log:  slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Limit: new(repeat.Limiter), Changed: func() {},
	}
	for _, j := range join {
		o.Join = append(o.Join, fmt.Sprintf("127.0.0.%d:%d", j, port))
	}
	g, err := Open(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { g.Run(ctx); close(done) }()
	var once sync.Once
	return &host{g, log, func(leave bool) {
		once.Do(func() {
			_ = g.Close(leave)
			cancel()
			<-done
			o.Limit.Stop()
		})
	}}, nil
}

func (h *host) publish(macs map[encap.MAC]uint64) {
	r := Record{Networks: []Network{{Key: Key{7, 4789}, MTU: 1450, MAC: 0x020000000000 + encap.MAC(h.o.Node.VTEP.As4()[3])}}}
	for m, seq := range macs {
		r.Endpoints = append(r.Endpoints, Endpoint{Key: Key{7, 4789}, MAC: m, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(m >> 8), byte(m)})}, Name: "c", Sequence: seq})
	}
	h.Publish(r)
}

// additions is what the network of the test gets, as text.
func (h *host) additions() string {
	n := dataplane.Network{VNI: 7, Port: 4789, MTU: 1450, MaxEntries: 100}
	a := h.View().Additions(&n, 100, func(netip.Addr) error { return nil })
	var s []string
	for _, p := range a.Peers {
		s = append(s, p.Address.String())
	}
	for _, e := range a.FDB {
		if e.Origin != fdb.Cluster {
			return "an entry of another origin"
		}
		s = append(s, fmt.Sprintf("%s>%s", e.MAC, e.Peer))
	}
	return strings.Join(append(s, a.Problems...), " ")
}

func eventually(t *testing.T, what string, hosts []*host, f func() string) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if last = f(); last == "" {
			return
		}
	}
	for _, h := range hosts {
		t.Logf("%s: %v\n%s", h.o.Node.Name, h.Problems(), h.log)
	}
	t.Fatalf("%s: %s", what, last)
}

func (h *host) wants(t *testing.T, want string) {
	t.Helper()
	eventually(t, h.o.Node.Name, []*host{h}, func() string {
		if got := h.additions(); got != want {
			return fmt.Sprintf("has %q, want %q", got, want)
		}
		return ""
	})
}

func (h *host) wantsProblem(t *testing.T, want string) {
	t.Helper()
	eventually(t, h.o.Node.Name, []*host{h}, func() string {
		if got := strings.Join(h.Problems(), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			return fmt.Sprintf("problems %q, want %q", got, want)
		}
		return ""
	})
}

const macA, macB = encap.MAC(0x020000000101), encap.MAC(0x020000000102)

// Three members know each other's containers; one that moves is where it is now; one
// that leaves is gone at once, one that dies after the TTL, one that comes back is back.
func TestGossip(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	key, port := keyFile(t, newKey()), freePort(t)
	a := start(t, key, port, "a", 1)
	b := start(t, key, port, "b", 2, 1)
	c := start(t, key, port, "c", 3, 1)
	defer a.stop(false)
	defer b.stop(false)
	defer c.stop(false)
	a.publish(map[encap.MAC]uint64{macA: 1})
	b.publish(map[encap.MAC]uint64{macB: 1})
	c.publish(nil)
	c.wants(t, "192.0.2.1 192.0.2.2 02:00:00:00:01:01>192.0.2.1 02:00:00:00:01:02>192.0.2.2")
	a.wants(t, "192.0.2.2 192.0.2.3 02:00:00:00:01:02>192.0.2.2")
	// It moves to b, which claims it by a higher number, before a withdraws it.
	seq := b.View().NextSequence(Key{7, 4789}, macA)
	if seq != 2 {
		t.Errorf("next sequence %d, want 2", seq)
	}
	b.publish(map[encap.MAC]uint64{macB: 1, macA: seq})
	c.wants(t, "192.0.2.1 192.0.2.2 02:00:00:00:01:01>192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	a.wants(t, "192.0.2.2 192.0.2.3 02:00:00:00:01:01>192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	if seq := b.View().NextSequence(Key{7, 4789}, macA); seq != 2 {
		t.Errorf("the sequence of an own claim is %d, want 2", seq)
	}
	a.publish(nil)

	b.stop(true)
	c.wants(t, "192.0.2.1")
	if log := c.log.String(); !strings.Contains(log, `msg="a member left the cluster" node=b`) || strings.Contains(log, "does not answer") {
		t.Errorf("it was not withdrawn for leaving:\n%s", log)
	}
	b = start(t, key, port, "b", 2, 1)
	defer b.stop(false)
	b.publish(map[encap.MAC]uint64{macB: 1})
	c.wants(t, "192.0.2.1 192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	b.stop(false)
	c.wants(t, "192.0.2.1")
}

// Without the key there is no cluster, and the status says so.
func TestGossipWrongKey(t *testing.T) {
	port := freePort(t)
	a := start(t, keyFile(t, newKey()), port, "a", 1)
	b := start(t, keyFile(t, newKey()), port, "b", 2, 1)
	b.wantsProblem(t, "have the same key")
	if n := len(a.View().Members); n != 1 {
		t.Errorf("%d members", n)
	}
}

// The key changes without a moment in which members do not understand each other.
func TestGossipRekey(t *testing.T) {
	old, next := newKey(), newKey()
	pa, pb, port := keyFile(t, old), keyFile(t, old), freePort(t)
	a := start(t, pa, port, "a", 1)
	b := start(t, pb, port, "b", 2, 1)
	a.publish(nil)
	b.publish(map[encap.MAC]uint64{macB: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	for _, step := range [][]string{{old, next}, {next, old}, {next}} {
		for path, h := range map[string]*host{pa: a, pb: b} {
			if err := os.WriteFile(path, []byte(strings.Join(step, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := h.Rekey(); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.publish(map[encap.MAC]uint64{macB: 1, macA: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:01>192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	if err := os.Chmod(pa, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.Rekey(); err != nil {
		t.Error(err)
	}
	a.wantsProblem(t, "has mode 0644")
	if err := os.Chmod(pa, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Rekey(); err != nil {
		t.Error(err)
	}
	a.wantsProblem(t, "")
	if err := os.WriteFile(pa, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Rekey(); err == nil || !strings.Contains(err.Error(), "key:1: is not base64") {
		t.Errorf("%v", err)
	}
}

// A second node of a name, or of a VTEP, is not taken, and both are named.
func TestGossipClash(t *testing.T) {
	key, port := keyFile(t, newKey()), freePort(t)
	a := start(t, key, port, "a", 1)
	b := start(t, key, port, "b", 2, 1)
	a.publish(nil)
	b.publish(nil)
	a.wants(t, "192.0.2.2")
	again := start(t, key, port, "a", 4, 2)
	again.publish(nil)
	again.wantsProblem(t, "two nodes have the name a")
	same, err := open(key, port, "d", 5, vtep(2), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer same.stop(false)
	same.publish(nil)
	same.wantsProblem(t, "two nodes have the underlay address 192.0.2.2")
	a.wantsProblem(t, "two nodes have the underlay address 192.0.2.2, b and d")
	a.wants(t, "192.0.2.2")
	b.wants(t, "192.0.2.1")
}

// Bytes of any kind at the port change nothing, and are counted.
func TestGossipGarbage(t *testing.T) {
	key, port := keyFile(t, newKey()), freePort(t)
	a := start(t, key, port, "a", 1)
	b := start(t, key, port, "b", 2, 1)
	a.publish(nil)
	b.publish(map[encap.MAC]uint64{macB: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	before := a.Refused()
	u, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for range 200 {
		junk := make([]byte, 1000)
		_, _ = rand.Read(junk)
		_, _ = u.Write(junk)
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(junk)
		c.Close()
	}
	for _, kind := range []string{"", "q{", "r{\"nonce\":\"x\"}", "z"} {
		(*delegate)(a.Gossip).NotifyMsg([]byte(kind))
	}
	eventually(t, "refused", []*host{a}, func() string {
		if n := a.Refused() - before; n < 100 {
			return fmt.Sprintf("%d are counted", n)
		}
		return ""
	})
	a.wants(t, "192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	if lines := strings.Count(a.log.String(), "level=WARN"); lines > 5 {
		t.Errorf("%d lines of the log:\n%s", lines, a.log)
	}
}

// A record is taken as an answer of the one that was asked alone, and as its own.
func TestGossipOthersRecord(t *testing.T) {
	key, port := keyFile(t, newKey()), freePort(t)
	a := start(t, key, port, "a", 1)
	b := start(t, key, port, "b", 2, 1)
	a.publish(nil)
	b.publish(map[encap.MAC]uint64{macB: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	forged := b.View().Members[1].Record
	forged.Endpoints = nil
	a.take(&reply{Nonce: newNonce(), Record: forged})
	if got := a.additions(); got != "192.0.2.2 02:00:00:00:01:02>192.0.2.2" {
		t.Errorf("after the answer to no question: %s", got)
	}
	a.mu.Lock()
	a.members["b"].nonce, a.members["b"].since = "n", time.Now()
	a.mu.Unlock()
	forged.Node.VTEP = vtep(9)
	a.take(&reply{Nonce: "n", Record: forged})
	a.wantsProblem(t, "the record of member b is refused: it is one of b (192.0.2.9)")
	// The next good one is taken again.
	b.publish(map[encap.MAC]uint64{macB: 1, macA: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:01>192.0.2.2 02:00:00:00:01:02>192.0.2.2")
	a.wantsProblem(t, "")
	b.publish(map[encap.MAC]uint64{macB: 1})
	a.wants(t, "192.0.2.2 02:00:00:00:01:02>192.0.2.2")
}
