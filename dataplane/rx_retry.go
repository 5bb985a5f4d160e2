package dataplane

import (
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// Some kernels refuse GSO packets that are right (virtio_net_hdr_to_skb of 6.6.44
// and 6.10.3 did now and then). What a TAP or TUN refuses with EINVAL is therefore
// segmented here and written again, so that nothing is lost. From then on nothing
// is joined for the device for a while, and what the peer's kernel left unsegmented
// is segmented here: for FirstBackoff, and after each further refusal twice as
// long, up to LongestBackoff.

const (
	// againFrames are written again at once.
	retryFrames = 64
	// againTries is how often a frame without offloads is written again: a kernel
	// that refuses at random may refuse it too.
	retryTries = 3
)

// retry is the memory of segments that are written again.
type retry struct {
	frames []netio.OutFrame
	parts  [][]byte
	slots  []byte // headers, one a frame
}

func newRetry() retry {
	return retry{
		frames: make([]netio.OutFrame, 0, retryFrames),
		parts:  make([][]byte, 0, 2*retryFrames),
		slots:  make([]byte, retryFrames*headerSlot),
	}
}

// retryRefused writes what the current device refused with EINVAL again, without
// offloads. It comes behind what was written of its flow in the same batch, once:
// what follows is written without offloads at first.
func (in *deliverer) retryRefused() {
	for i := range in.frames {
		f := &in.frames[i]
		if f.Errno != unix.EINVAL {
			continue
		}
		if f.VNet != (encap.VnetHdr{}) {
			in.sink.of.singly.Store(true)
			in.sink.plain = true
		}
		if f.VNet.GSOSize != 0 {
			in.segmentRetry(f)
			continue
		}
		if f.VNet.Flags&encap.VnetNeedsCsum != 0 {
			t, _ := in.sink.of.transport(f.Parts[0])
			if !finishChecksum(&netio.Frame{VNet: f.VNet, Data: f.Parts[0][:t.End]}) {
				continue
			}
			f.VNet = encap.VnetHdr{}
		}
		in.retryWrite(in.frames[i : i+1])
	}
}

// retryWrite writes a frame again that the device refused, while it says EINVAL.
func (in *deliverer) retryWrite(f []netio.OutFrame) {
	for range retryTries {
		if in.sink.dev.WriteBatch(f) == 0 || f[0].Errno != unix.EINVAL {
			return
		}
	}
}

// segmentRetry writes the segments of a GSO packet.
func (in *deliverer) segmentRetry(f *netio.OutFrame) {
	p, ok := in.planRetry(f)
	if !ok {
		return
	}
	f.Errno, f.PartlyRefused = 0, 0
	segment := 0
	for k, part := range f.Parts {
		if k == 0 {
			part = part[p.headers:]
		}
		for len(part) > 0 {
			payload := part[:min(p.size, len(part))]
			part = part[len(payload):]
			slot := in.retry.slots[len(in.retry.frames)*headerSlot:][:headerSlot]
			first := len(in.retry.parts)
			in.retry.parts = append(in.retry.parts, p.headersOf(slot, f.Parts[0], payload, segment), payload)
			in.retry.frames = append(in.retry.frames, netio.OutFrame{Parts: in.retry.parts[first:]})
			if segment++; len(in.retry.frames) == retryFrames {
				in.flushRetry(f)
			}
		}
	}
	in.flushRetry(f)
}

// planRetry is how a GSO packet that was made for the device falls into segments.
// Its vnet header is right, and its parts are not cut by segments: they are whole
// segments' payloads, or all of them.
func (in *deliverer) planRetry(f *netio.OutFrame) (plan, bool) {
	t := encap.Transport{L4: int(f.VNet.CsumStart)}
	if in.sink.of.kind != KindIPIP {
		eth, err := encap.ParseEthernet(f.Parts[0])
		if err != nil {
			return plan{}, false
		}
		t.L3 = eth.L3Offset()
	}
	for _, part := range f.Parts {
		t.End += len(part)
	}
	t.V6 = f.Parts[0][t.L3]>>4 == 6
	t.Proto = encap.ProtoTCP
	if f.VNet.GSO() == encap.VnetGSOUDPL4 {
		t.Proto = encap.ProtoUDP
	}
	p := plan{t: t, headers: int(f.VNet.HdrLen), size: int(f.VNet.GSOSize), count: f.Count}
	return p, p.headers <= maxHeaders
}

// flushRetry writes what waits of the GSO packet f, and notes what was refused.
func (in *deliverer) flushRetry(f *netio.OutFrame) {
	a := &in.retry
	if in.sink.dev.WriteBatch(a.frames) != 0 {
		for i := range a.frames {
			if a.frames[i].Errno == unix.EINVAL {
				in.retryWrite(a.frames[i : i+1])
			}
			if e := a.frames[i].Errno; e != 0 {
				f.Errno = e
				f.PartlyRefused++
			}
		}
	}
	a.frames, a.parts = a.frames[:0], a.parts[:0]
}

// gsoRefusal is what upkeep knows of a device that refused GSO packets.
type gsoRefusal struct {
	wait  time.Duration // 0 = it did not lately
	until time.Time     // wait after the last refusal
	noted bool          // the last refusal is, and until is not over
}

// note starts the time of waiting after a refusal.
func (r *gsoRefusal) note(now time.Time) {
	r.wait = min(max(2*r.wait, netio.FirstBackoff), netio.LongestBackoff)
	r.until, r.noted = now.Add(r.wait), true
}

// checkGSO has the device be given GSO packets again when its time is over, and
// notifies the owner when a device begins to refuse them, and when it did not for
// a second time of waiting. While the owner does not listen it waits.
func (e *Engine) checkGSO(o *netBase, now time.Time) {
	r := &o.refusal
	refused := o.singly.Load()
	if !refused && r.wait == 0 || e.isBehind() {
		return
	}
	switch {
	case refused && !r.noted:
		if r.wait == 0 {
			e.notify(Event{Kind: GSORefused, Network: o.name, Err: unix.EINVAL})
		}
		r.note(now)
	case refused && !now.Before(r.until):
		r.noted = false
		o.singly.Store(false)
	case !refused && now.After(r.until.Add(r.wait)):
		*r = gsoRefusal{}
		e.notify(Event{Kind: GSOResumed, Network: o.name})
	}
}
