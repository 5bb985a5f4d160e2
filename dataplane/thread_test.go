package dataplane_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
)

// event waits for the engine's next event.
func (h *host) event() dataplane.Event {
	h.tb.Helper()
	select {
	case ev := <-h.Events():
		return ev
	case <-time.After(10 * time.Second):
		h.tb.Fatal("no event")
		return dataplane.Event{}
	}
}

// sleeps is how often the thread gave up the CPU of its own accord.
func sleeps(tb testing.TB, thread int) (n int) {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", thread))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("\nvoluntary_ctxt_switches:"))
	if _, err := fmt.Sscan(string(rest), &n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestIdleThreadsSleep wants threads with nothing to do not to wake, not even
// once a tick.
func TestIdleThreadsSleep(t *testing.T) {
	u, a, b := newPair(t)
	a.TAP("vx0").Inject(hello)
	wantFrames(t, b.TAP("vx0"), hello)
	b.TAP("vx0").Inject(helloBack)
	wantFrames(t, a.TAP("vx0"), helloBack)
	threads := append(a.Threads(), b.Threads()...)
	if len(threads) != 4 {
		t.Fatalf("threads %v, want one each way at each host", threads)
	}
	time.Sleep(50 * time.Millisecond)
	before := make(map[int]int)
	for _, id := range threads {
		before[id] = sleeps(t, id)
	}
	reads := a.TAP("vx0").Reads()
	time.Sleep(1500 * time.Millisecond)
	for _, id := range threads {
		if n := sleeps(t, id) - before[id]; n != 0 {
			t.Errorf("thread %d woke %d times with nothing to do", id, n)
		}
	}
	if n := a.TAP("vx0").Reads() - reads; n != 0 {
		t.Errorf("an idle TAP was read %d times", n)
	}
	if c := u.Carried(); c.Sent != 2 {
		t.Errorf("%d datagrams were sent, want 2", c.Sent)
	}
}

// TestDeviceLost deletes a TAP under the engine: it is reported once, the thread
// does not spin, other networks go on, and the network can be opened again.
func TestDeviceLost(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	a := bareHost(t, u, addrA, 2)
	a.apply(blue, red)
	b := newHost(t, u, addrB, testNetwork(addrB, addrA), renamed(testNetwork(addrB, addrA), "red", "vx1", 200))

	lost := a.TAP("vx0")
	lost.FailReads(unix.EBADFD)
	ev := a.event()
	if ev.Kind != dataplane.DeviceLost || ev.Network != "blue" || !errors.Is(ev.Err, unix.EBADFD) {
		t.Errorf("event %+v", ev)
	}
	time.Sleep(100 * time.Millisecond)
	if n := lost.Reads(); n > 2 {
		t.Errorf("the lost TAP was read %d times by two workers", n)
	}
	select {
	case ev := <-a.Events():
		t.Errorf("a second event: %+v", ev)
	default:
	}
	for _, n := range a.Info().Networks {
		if n.Lost != (n.Network == "blue") {
			t.Errorf("%+v", n)
		}
	}
	a.TAP("vx1").Inject(hello)
	wantFrames(t, b.TAP("vx1"), hello)

	a.apply(red)
	a.apply(red, blue)
	a.TAP("vx0").Inject(hello)
	wantFrames(t, b.TAP("vx0"), hello)
	for _, n := range a.Info().Networks {
		if n.Lost {
			t.Errorf("%+v", n)
		}
	}
}

// TestDeviceLostWhileChanging is for the race detector: the thread reports a
// network that control is changing.
func TestDeviceLostWhileChanging(t *testing.T) {
	n := testNetwork(addrA, addrB)
	a := newHost(t, netiotest.NewUnderlay(t), addrA, n)
	tap := a.TAP("vx0")
	tap.FailReads(unix.EBADFD)
	time.Sleep(50 * time.Millisecond) // instead of the event, which would order the two
	n.TTL = 9
	a.apply(n)
	if ev := a.event(); ev.Network != "blue" {
		t.Errorf("event %+v", ev)
	}
}

// TestWireFailed wants a socket that cannot be read to be reported and left alone.
func TestWireFailed(t *testing.T) {
	a := newHost(t, netiotest.NewUnderlay(t), addrA, testNetwork(addrA, addrB))
	a.FailConns(unix.EBADF)
	ev := a.event()
	if ev.Kind != dataplane.ConnFailed || ev.Port != testPort || !errors.Is(ev.Err, unix.EBADF) {
		t.Errorf("event %+v", ev)
	}
	select {
	case ev := <-a.Events():
		t.Errorf("a second event: %+v", ev)
	case <-time.After(50 * time.Millisecond):
	}
}

// TestPassingErrors wants what the network answers to something sent to end
// nothing.
func TestPassingErrors(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	for i, e := range []unix.Errno{unix.ECONNREFUSED, unix.ENETDOWN, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE} {
		a.FailConns(e)
		time.Sleep(2 * time.Millisecond)
		a.FailConns(0)
		f := plainFrame(macA, macB, fmt.Sprint("after error ", i))
		a.from(u, addrB, f.Data)
		wantFrames(t, a.TAP("vx0"), f)
	}
	select {
	case ev := <-a.Events():
		t.Errorf("event %+v", ev)
	default:
	}
}

func TestSegmentationRefused(t *testing.T) {
	a := newHost(t, netiotest.NewUnderlay(t), addrA, testNetwork(addrA, addrB))
	until := time.Now().Add(time.Minute)
	a.RefuseRuns(netio.RunsRefused{Peer: addrB, Errno: unix.EIO, Until: until})
	ev := a.event() // within a tick
	if ev.Kind != dataplane.SegmentationRefused || !errors.Is(ev.Err, unix.EIO) || ev.Peer != addrB || ev.Count != 1 {
		t.Errorf("event %+v", ev)
	}
	i := a.Info()
	if !i.SegmentationRefused {
		t.Error("Info does not say so")
	}
	want := dataplane.OffloadInfo{
		Name: "udp_segment", State: dataplane.OffloadSuspended, Until: until,
		Reason: "the route to " + addrB.String() + " refused it: input/output error",
	}
	if got := offloadOf(t, i, "udp_segment"); got != want {
		t.Errorf("Info says %+v, want %+v", got, want)
	}

	// Refused once more is no news; another peer is, and so is the end.
	later := until.Add(time.Minute)
	a.RefuseRuns(
		netio.RunsRefused{Peer: addrB, Errno: unix.EIO, Until: until},
		netio.RunsRefused{Peer: addrC, Errno: unix.EINVAL, Until: later})
	if ev := a.event(); ev.Kind != dataplane.SegmentationRefused || ev.Peer != addrC || ev.Count != 1 || !errors.Is(ev.Err, unix.EINVAL) {
		t.Errorf("event %+v", ev)
	}
	if got := offloadOf(t, a.Info(), "udp_segment"); got.Until != later || !strings.HasSuffix(got.Reason, "; those to 1 more peers refused it too") {
		t.Errorf("Info says %+v", got)
	}
	a.RefuseRuns()
	if ev := a.event(); ev.Kind != dataplane.SegmentationResumed || ev.Count != 2 {
		t.Errorf("event %+v", ev)
	}
	if got := offloadOf(t, a.Info(), "udp_segment"); got != (dataplane.OffloadInfo{Name: "udp_segment", State: dataplane.OffloadOn}) {
		t.Errorf("Info says %+v", got)
	}
	select {
	case ev := <-a.Events():
		t.Errorf("notified twice: %+v", ev)
	case <-time.After(1500 * time.Millisecond):
	}
}

// TestManyWorkers sends many flows both ways between engines of several
// workers, each frame once.
func TestManyWorkers(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a, b := bareHost(t, u, addrA, 4), bareHost(t, u, addrB, 4)
	a.apply(testNetwork(addrA, addrB))
	b.apply(testNetwork(addrB, addrA))
	const flows, each = 64, 30
	for range each {
		for i := range flows {
			s := flowSpec{src: macA, dst: macB, udp: true}
			f := s.partial(t, []byte{byte(i)})
			f.Data[s.l4()+1] = byte(i) // the source port; the checksum counts no port yet
			a.TAP("vx0").Inject(f)
			back := flowSpec{src: macB, dst: macA, udp: true}.partial(t, []byte{byte(i)})
			back.Data[s.l4()+1] = byte(i)
			b.TAP("vx0").Inject(back)
		}
	}
	eventually(t, "all arrive", func() bool {
		return a.blue().RxPackets == flows*each && b.blue().RxPackets == flows*each
	})
	if n := len(cutAll(t, a.TAP("vx0").Written())); n != flows*each {
		t.Errorf("%d frames arrived, want %d", n, flows*each)
	}
	for i, q := range a.TAP("vx0").Queues {
		if q.Writes() == 0 {
			t.Errorf("nothing was written to queue %d", i)
		}
	}
	if n := len(a.Threads()); n != 8 {
		t.Errorf("%d threads had work, want 8", n)
	}
	a.wantDrops()
	b.wantDrops()
}
