package netiotest

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// patience is how long a Wait waits before it fails its test.
const patience = 10 * time.Second

// Frame is an Ethernet frame, of a TUN an IP packet, with its vnet header.
type Frame struct {
	VNet encap.VnetHdr
	Data []byte
}

// TAP is a device in memory, a TUN when its Spec says so. What a test injects, the engine reads; what the
// engine writes, the test collects.
type TAP struct {
	Spec   netio.DeviceSpec
	Queues []*Device

	tb        testing.TB
	noUSO     bool
	mu        sync.Mutex
	written   []Frame
	refuse    unix.Errno
	refuseIf  func(Frame) unix.Errno
	unwritten int
}

func newTAP(tb testing.TB, s netio.DeviceSpec) *TAP {
	t := &TAP{Spec: s, tb: tb}
	for range s.Queues {
		t.Queues = append(t.Queues, &Device{tap: t, event: newEvent(tb)})
	}
	return t
}

// Inject lets the engine read the frames, each from the queue of its flow. After
// the device was closed they vanish.
func (t *TAP) Inject(frames ...Frame) {
	t.tb.Helper()
	for _, f := range frames {
		if len(f.Data) > netio.MaxFrame {
			t.tb.Errorf("a TAP hands over no frame of %d bytes", len(f.Data))
		}
		hash := encap.FlowHash(f.Data)
		if p, ok := encap.FindPacketTransport(f.Data); ok && t.Spec.TUN {
			hash = p.FlowHash(f.Data)
		}
		q := t.Queues[int(hash)%len(t.Queues)]
		q.inject(f)
	}
}

// Written returns what the engine wrote since the last call, in order within a
// flow.
func (t *TAP) Written() []Frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.written
	t.written = nil
	return w
}

// Wait returns what Written does once that is n frames or more.
func (t *TAP) Wait(n int) []Frame {
	t.tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) {
		t.mu.Lock()
		have := len(t.written)
		t.mu.Unlock()
		if have >= n {
			return t.Written()
		}
		if time.Now().After(deadline) {
			t.tb.Fatalf("TAP %s: %d frames were written within %s, want %d", t.Spec.Name, have, patience, n)
		}
	}
}

// RefuseWrites makes every write fail with e, until 0 ends it.
func (t *TAP) RefuseWrites(e unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = e
}

// RefuseWhere has each write be refused with what f returns of the frame, until nil
// ends it.
func (t *TAP) RefuseWhere(f func(Frame) unix.Errno) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuseIf = f
}

// Refused is how many frames were refused.
func (t *TAP) Refused() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unwritten
}

// FailReads makes every read fail with e, as EBADFD of a TAP that was deleted;
// the descriptors are readable from now on.
func (t *TAP) FailReads(e unix.Errno) {
	for _, q := range t.Queues {
		q.mu.Lock()
		q.fail = e
		q.mu.Unlock()
		q.event.raise()
	}
}

// Reads is how often the engine called ReadBatch.
func (t *TAP) Reads() int {
	n := 0
	for _, q := range t.Queues {
		q.mu.Lock()
		n += q.reads
		q.mu.Unlock()
	}
	return n
}

// Device is one queue of a TAP.
type Device struct {
	tap            *TAP
	event          event
	reader, writer one
	thread         atomic.Int64 // that read last
	writes         atomic.Int64

	mu      sync.Mutex
	waiting []Frame
	fail    unix.Errno
	reads   int
}

func (q *Device) inject(f Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.event.closed.Load() {
		return
	}
	q.waiting = append(q.waiting, Frame{VNet: f.VNet, Data: slices.Clone(f.Data)})
	q.event.raise()
}

// FD returns the eventfd that is readable while frames wait.
func (q *Device) FD() int { return q.event.fd }

// Offloads returns every offload, or none of a plain TAP, or all but UDP's where
// Backend.NoUSO was called.
func (q *Device) Offloads() []string {
	switch s := q.tap.Spec; {
	case s.Plain:
		return nil
	case s.NoGSO:
		return []string{"csum"}
	case s.NoUSO || q.tap.noUSO:
		return []string{"csum", "tso4", "tso6", "ecn"}
	}
	return []string{"csum", "tso4", "tso6", "ecn", "uso"}
}

// Persist does nothing: a device in memory goes with its queues.
func (q *Device) Persist(bool) error { return nil }

// Close closes the queue. A second time is a violation.
func (q *Device) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.event.close(); err != nil {
		q.tap.tb.Errorf("TAP %s was closed twice", q.tap.Spec.Name)
		return err
	}
	return nil
}

// Writes is how often the engine called WriteBatch.
func (q *Device) Writes() int { return int(q.writes.Load()) }

// ReadBatch hands over what waits, with dirt in the room before each frame.
func (q *Device) ReadBatch(b *netio.FrameBatch) error {
	q.reader.enter(q.tap.tb, "ReadBatch of TAP "+q.tap.Spec.Name)
	defer q.reader.leave()
	q.thread.Store(int64(unix.Gettid()))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reads++
	if q.event.closed.Load() {
		q.tap.tb.Errorf("TAP %s was read after it was closed", q.tap.Spec.Name)
		return unix.EBADF
	}
	if q.fail != 0 {
		return q.fail
	}
	for len(q.waiting) > 0 {
		slot := b.Slot(netio.Headroom)
		if slot == nil {
			return nil
		}
		f := q.waiting[0]
		poison(slot[:netio.Headroom])
		b.Commit(copy(slot[netio.Headroom:], f.Data), f.VNet)
		q.waiting = q.waiting[1:]
	}
	q.event.lower()
	return nil
}

// WriteBatch checks and collects the frames.
func (q *Device) WriteBatch(f []netio.OutFrame) (refused int) {
	t := q.tap
	q.writer.enter(t.tb, "WriteBatch of TAP "+t.Spec.Name)
	defer q.writer.leave()
	q.writes.Add(1)
	if q.event.closed.Load() {
		t.tb.Errorf("TAP %s was written after it was closed", t.Spec.Name)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range f {
		if err := CheckOutFrame(&t.Spec, &f[i]); err != nil {
			t.tb.Errorf("TAP %s: frame %d of %d: %v", t.Spec.Name, i, len(f), err)
		}
		if t.noUSO && f[i].VNet.GSO() == encap.VnetGSOUDPL4 {
			t.tb.Errorf("TAP %s: UDP GSO packet, which was not offered", t.Spec.Name)
		}
		frame := Frame{VNet: f[i].VNet, Data: slices.Concat(f[i].Parts...)}
		f[i].Errno = t.refuse
		if t.refuseIf != nil {
			f[i].Errno = t.refuseIf(frame)
		}
		if f[i].Errno != 0 {
			refused++
			continue
		}
		t.written = append(t.written, frame)
	}
	t.unwritten += refused
	return refused
}

// Inject checks and collects the frame with what WriteBatch wrote.
func (q *Device) Inject(frame []byte) unix.Errno {
	t := q.tap
	q.reader.enter(t.tb, "Answer of TAP "+t.Spec.Name)
	defer q.reader.leave()
	if q.event.closed.Load() {
		t.tb.Errorf("TAP %s was answered after it was closed", t.Spec.Name)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := CheckOutFrame(&t.Spec, &netio.OutFrame{Parts: [][]byte{frame}}); err != nil {
		t.tb.Errorf("TAP %s: answer: %v", t.Spec.Name, err)
	}
	if t.refuse != 0 {
		t.unwritten++
		return t.refuse
	}
	t.written = append(t.written, Frame{Data: slices.Clone(frame)})
	return 0
}
