package traffic

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func openFDs(t testing.TB) int { return len(must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd"))) }

// leavesNothing fails the test when the function leaves sockets or goroutines.
func leavesNothing(t *testing.T, f func()) {
	t.Helper()
	goroutines, fds := goleak.IgnoreCurrent(), openFDs(t)
	f()
	goleak.VerifyNone(t, goroutines)
	if n := openFDs(t); n != fds {
		t.Errorf("%d files open, %d before", n, fds)
	}
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// pair is two hosts on one wire.
func pair(t testing.TB) (a, b End) {
	lab := netlabtest.New(t)
	ha, hb := must[*netlab.Host](t)(lab.AddHost("a")), must[*netlab.Host](t)(lab.AddHost("b"))
	check(t, lab.Underlay(1500, ha, hb))
	return End{ha, netlab.UnderlayAddr(1, false)}, End{hb, netlab.UnderlayAddr(2, false)}
}

func TestAcrossKernelVXLAN(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	lab := netlabtest.New(t)
	a, b, err := lab.KernelPair(netlab.SiteSpec{})
	check(t, err)
	for _, c := range []struct {
		name     string
		from, to End
	}{
		{"v4", End{a.Container, a.IPv4}, End{b.Container, b.IPv4}},
		{"v6", End{b.Container, b.IPv6}, End{a.Container, a.IPv6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leavesNothing(t, func() {
				ctx := limit(t, 30*time.Second)
				const bytes = 3<<20 + 17
				r := must[TCPResult](t)(TCP(ctx, c.from, c.to, TCPOptions{Flows: 3, Bytes: bytes, Checked: true}))
				if r.Bytes != 3*bytes || len(r.FlowBytes) != 3 || r.FlowBytes[2] != bytes || r.Elapsed <= 0 {
					t.Errorf("checked TCP: %v, flows %v; want %d a flow", r, r.FlowBytes, bytes)
				}
				r = must[TCPResult](t)(TCP(ctx, c.from, c.to, TCPOptions{Duration: 200 * time.Millisecond}))
				if r.Bytes < 1<<20 || r.Elapsed < 190*time.Millisecond || r.BitsPerSecond() <= 0 {
					t.Errorf("TCP for 200 ms: %v", r)
				}
				t.Log("TCP:", r)
				for _, o := range []UDPOptions{
					{Count: 1000, Rate: 5000},
					{Count: 999, Rate: 5000, Size: 1400},
					{Count: 1000, Rate: 5000, Size: 1000, Batch: 16, Segment: true},
				} {
					u := must[UDPResult](t)(UDP(ctx, c.from, c.to, o))
					if u.Offered != o.Count || u.Received != o.Count || u.Lost+u.Duplicated+u.Corrupted != 0 {
						t.Errorf("UDP %+v: %v", o, u)
					}
					if d := time.Duration(float64(o.Count) / o.Rate * 1e9); u.Sending < d*8/10 {
						t.Errorf("UDP paced to %v took %v", d, u.Sending)
					}
				}
				u := must[UDPResult](t)(UDP(ctx, c.from, c.to, UDPOptions{Duration: 200 * time.Millisecond}))
				if u.Received < 100 || u.Corrupted+u.Duplicated != 0 || u.Lost != u.Offered-u.Received {
					t.Errorf("UDP flood: %v", u)
				}
				t.Log("UDP flood:", u)
				l := must[LatencyResult](t)(Latency(ctx, c.from, c.to, LatencyOptions{Count: 300, Warmup: 20}))
				if l.Sent != 300 || l.Lost != 0 || l.Min <= 0 || l.Min > l.Median || l.Median > l.P90 || l.P90 > l.P99 || l.P99 > l.Max {
					t.Errorf("latency: %v", l)
				}
				t.Log("latency:", l)
			})
		})
	}
}

func TestUDPCountsLoss(t *testing.T) {
	a, b := pair(t)
	// A veth end drops what is larger than its own MTU (kernel
	// __is_skb_forwardable), unseen by the sender.
	check(t, b.Host.SetMTU(netlab.UnderlayDev, 1000))
	u := must[UDPResult](t)(UDP(limit(t, 20*time.Second), a, b, UDPOptions{Count: 100, Size: 1400}))
	if u.Offered != 100 || u.Received != 0 || u.Lost != 100 {
		t.Errorf("wire that drops all: %v", u)
	}
}

func TestUDPToSeveral(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	ends := make([]End, 3)
	for i, s := range sites {
		ends[i] = End{s.Host, s.Underlay}
	}
	ends6 := make([]End, 3)
	for i, s := range sites {
		ends6[i] = End{s.Host, netlab.UnderlayAddr(s.N, true)}
	}
	for _, c := range []struct {
		dst  string
		ends []End
	}{
		{"192.0.2.255", ends}, {"255.255.255.255", ends}, {"239.1.1.1", ends}, {"ff05::114", ends6},
	} {
		dst := netip.MustParseAddr(c.dst)
		if dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			check(t, ends[0].Host.AddRoute(all, ends[1].Addr, netlab.UnderlayDev))
		}
		rs := must[[]UDPResult](t)(UDPTo(limit(t, 20*time.Second), c.ends[0], dst, c.ends[1:], UDPOptions{Count: 50, Rate: 1000}))
		for i, r := range rs {
			if r.Received != 50 || r.Lost+r.Duplicated+r.Corrupted != 0 {
				t.Errorf("%s, receiver %d: %v", c.dst, i, r)
			}
		}
	}
}

func TestGiveUp(t *testing.T) {
	a, b := pair(t)
	check(t, b.Host.SetDown(netlab.UnderlayDev))
	leavesNothing(t, func() {
		if _, err := TCP(limit(t, 200*time.Millisecond), a, b, TCPOptions{}); err == nil {
			t.Error("TCP connected over a cut wire")
		}
		_, err := UDP(limit(t, 200*time.Millisecond), a, b, UDPOptions{Rate: 100, Duration: 10 * time.Second})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("UDP past its context: %v", err)
		}
		l, err := Latency(limit(t, 10*time.Second), a, b, LatencyOptions{Count: 3, Wait: 60 * time.Millisecond})
		if err != nil || l.Sent != 3 || l.Lost != 3 {
			t.Errorf("latency over a cut wire: %v, %v; want all lost", l, err)
		}
	})
}

func TestGiveUpInTheMiddle(t *testing.T) {
	a, b := pair(t)
	leavesNothing(t, func() {
		_, err := TCP(limit(t, 300*time.Millisecond), a, b, TCPOptions{Flows: 2, Duration: time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("TCP past its context: %v, want a deadline exceeded", err)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	a, b := pair(t)
	ctx := limit(t, 10*time.Second)
	for _, o := range []UDPOptions{
		{Size: 15}, {Size: 65508}, {Batch: -1}, {Batch: 65, Segment: true}, {Size: 1400, Batch: 64, Segment: true}, {Count: 1<<32 + 1},
	} {
		if _, err := UDP(ctx, a, b, o); err == nil {
			t.Errorf("UDP took %+v", o)
		}
	}
	if _, err := Latency(ctx, a, b, LatencyOptions{Size: 7}); err == nil {
		t.Error("Latency took 7 bytes")
	}
	far := End{a.Host, netip.MustParseAddr("203.0.113.9")}
	if _, err := TCP(ctx, far, b, TCPOptions{}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("TCP from an address the host lacks: %v", err)
	}
	if _, err := UDP(ctx, a, far, UDPOptions{}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("UDP to an address the host lacks: %v", err)
	}
}

// A relay between the two ends of a flow that flips or drops one byte must be
// found out.
func TestCheckedTCPFindsDamage(t *testing.T) {
	a, _ := pair(t)
	for _, c := range []struct {
		name    string
		damage  func([]byte) []byte
		checked bool
		want    error
	}{
		{"none", func(b []byte) []byte { return b }, true, nil},
		{"flipped", func(b []byte) []byte { b[0] ^= 1; return b }, true, ErrCorrupt},
		{"short", func(b []byte) []byte { return b[1:] }, true, ErrCorrupt},
		{"short, unchecked", func(b []byte) []byte { return b[1:] }, false, ErrCorrupt},
	} {
		ctx := limit(t, 10*time.Second)
		listener := must[sock](t)(a.open(unix.SOCK_STREAM))
		defer listener.close()
		port := must[uint16](t)(listener.bind(a.Addr, 0))
		check(t, unix.Listen(int(listener), 2))
		var left, right flow
		defer left.close()
		defer right.close()
		check(t, left.connect(ctx, listener, a, netip.AddrPortFrom(a.Addr, port)))
		check(t, right.connect(ctx, listener, a, netip.AddrPortFrom(a.Addr, port)))
		go func() {
			b := make([]byte, 1000)
			damaged := false
			for {
				n, err := unix.Read(int(left.in), b)
				if err != nil || n == 0 {
					unix.Shutdown(int(right.out), unix.SHUT_WR)
					return
				}
				out := b[:n]
				if !damaged {
					out, damaged = c.damage(out), true
				}
				unix.Write(int(right.out), out)
			}
		}()
		f := flow{out: left.out, in: right.in}
		check(t, f.send(ctx, time.Now(), TCPOptions{Bytes: 5000, Checked: c.checked}))
		check(t, f.receive(ctx, TCPOptions{Checked: c.checked}))
		if err := f.compare(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
