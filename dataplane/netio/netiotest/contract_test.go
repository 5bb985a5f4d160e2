package netiotest

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

// packet is a VXLAN packet of n bytes, or the start of one.
func packet(n int) []byte {
	b := make([]byte, max(n, encap.VXLANHeaderLen))
	encap.PutVXLAN(b, 100)
	return b[:n]
}

func parts(sizes ...int) (p [][]byte) {
	for _, n := range sizes {
		p = append(p, packet(n))
	}
	return p
}

func goodSend() netio.Send {
	return netio.Send{To: netip.AddrPortFrom(there, 4789), TTL: 64, Parts: parts(100)}
}

func TestPayloads(t *testing.T) {
	for name, c := range map[string]struct {
		sizes   []int
		segSize int
		want    []int
	}{
		"one":                {[]int{100}, 0, []int{100}},
		"one of parts":       {[]int{50, 30, 20}, 0, []int{100}},
		"a run":              {[]int{40, 60, 100, 70, 30}, 100, []int{100, 100, 100}},
		"a run, last short":  {[]int{100, 100, 30}, 100, []int{100, 100, 30}},
		"a run of one":       {[]int{50}, 100, []int{50}},
		"the longest":        {[]int{65507}, 0, []int{65507}},
		"the longest of all": {[]int{1000}, 65535, []int{1000}},
	} {
		s := goodSend()
		s.Parts, s.SegSize = parts(c.sizes...), c.segSize
		got, err := Payloads(&s)
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %d payloads, %v", name, len(got), err)
			continue
		}
		for i := range got {
			if len(got[i]) != c.want[i] {
				t.Errorf("%s: payload %d has %d bytes, want %d", name, i, len(got[i]), c.want[i])
			}
		}
	}
	s := goodSend()
	got, err := Payloads(&s)
	if err != nil {
		t.Fatal(err)
	}
	if got[0][50]++; s.Parts[0][50] != 0 {
		t.Error("the payloads are no copies")
	}
}

func TestPayloadsRefused(t *testing.T) {
	for name, spoil := range map[string]func(s *netio.Send){
		"no destination":        func(s *netio.Send) { s.To = netip.AddrPort{} },
		"port 0":                func(s *netio.Send) { s.To = netip.AddrPortFrom(there, 0) },
		"mapped":                func(s *netio.Send) { s.To = netip.MustParseAddrPort("[::ffff:192.0.2.2]:4789") },
		"TTL 0":                 func(s *netio.Send) { s.TTL = 0 },
		"nothing":               func(s *netio.Send) { s.Parts = nil },
		"empty part":            func(s *netio.Send) { s.Parts = append(s.Parts, nil) },
		"part across a cut":     func(s *netio.Send) { s.Parts, s.SegSize = parts(60, 60), 100 },
		"part longer than cuts": func(s *netio.Send) { s.SegSize = 99 },
		"unequal":               func(s *netio.Send) { s.Parts, s.SegSize = parts(90, 100), 100 },
		"many payloads":         func(s *netio.Send) { s.Parts, s.SegSize = parts(slices.Repeat([]int{100}, 65)...), 100 },
		"negative SegSize":      func(s *netio.Send) { s.SegSize = -1 },
		"huge SegSize":          func(s *netio.Send) { s.SegSize = 65536 },
		"too long":              func(s *netio.Send) { s.Parts = parts(65508) },
		"many parts":            func(s *netio.Send) { s.Parts = parts(append([]int{30}, slices.Repeat([]int{1}, 1024)...)...) },
		"no Ethernet header":    func(s *netio.Send) { s.Parts = parts(21) },
		"no I flag":             func(s *netio.Send) { s.Parts[0][0] = 0 },
		"reserved bits":         func(s *netio.Send) { s.Parts[0][7] = 1 },
	} {
		s := goodSend()
		spoil(&s)
		if _, err := Payloads(&s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCheckOutFrame(t *testing.T) {
	frame := func(n int) []byte {
		b := make([]byte, n)
		b[12], b[13] = 0x08, 0x00
		return b
	}
	needs := encap.VnetHdr{Flags: encap.VnetNeedsCsum, CsumStart: 34, CsumOffset: 16}
	gso := needs
	gso.GSOType, gso.GSOSize, gso.HdrLen = encap.VnetGSOTCPv4, 1410, 54
	with := func(v encap.VnetHdr, change func(*encap.VnetHdr)) encap.VnetHdr {
		change(&v)
		return v
	}
	for name, c := range map[string]struct {
		v     encap.VnetHdr
		data  []byte
		plain bool
		ok    bool
	}{
		"small":                  {data: frame(60), ok: true},
		"of the MTU":             {data: frame(1464), ok: true},
		"longer":                 {data: frame(1465)},
		"cut off":                {data: frame(14)[:13]},
		"unfinished":             {v: needs, data: frame(60), ok: true},
		"unfinished outside":     {v: needs, data: frame(51)},
		"unfinished in Ethernet": {v: with(needs, func(v *encap.VnetHdr) { v.CsumStart = 0 }), data: frame(60)},
		"GSO packet":             {v: gso, data: frame(9000), ok: true},
		"GSO packet with ECN":    {v: with(gso, func(v *encap.VnetHdr) { v.GSOType |= encap.VnetGSOECN }), data: frame(9000), ok: true},
		"segments too long":      {v: with(gso, func(v *encap.VnetHdr) { v.GSOSize++ }), data: frame(9000)},
		"segments of nothing":    {v: with(gso, func(v *encap.VnetHdr) { v.GSOSize = 0 }), data: frame(9000)},
		"GSO packet, finished":   {v: with(gso, func(v *encap.VnetHdr) { v.Flags = 0 }), data: frame(9000)},
		"unknown type":           {v: with(gso, func(v *encap.VnetHdr) { v.GSOType = 3 }), data: frame(9000)},
		"UDP with ECN":           {v: with(gso, func(v *encap.VnetHdr) { v.GSOType = encap.VnetGSOUDPL4 | encap.VnetGSOECN }), data: frame(9000)},
		"headers outside":        {v: with(gso, func(v *encap.VnetHdr) { v.HdrLen = 9001 }), data: frame(9000)},
		"headers too short":      {v: with(gso, func(v *encap.VnetHdr) { v.HdrLen = 50 }), data: frame(9000)},
		"remains":                {v: with(needs, func(v *encap.VnetHdr) { v.GSOSize = 9 }), data: frame(60)},
		"unknown flag":           {v: encap.VnetHdr{Flags: 4}, data: frame(60)},
		"plain":                  {data: frame(60), plain: true, ok: true},
		"plain, unfinished":      {v: needs, data: frame(60), plain: true},
		"too long for a TAP":     {v: gso, data: frame(netio.MaxFrame + 1)},
	} {
		spec := netio.DeviceSpec{MTU: 1450, Plain: c.plain}
		err := CheckOutFrame(&spec, &netio.OutFrame{VNet: c.v, Parts: [][]byte{c.data[:10], c.data[10:]}})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	spec := netio.DeviceSpec{MTU: 1450}
	if CheckOutFrame(&spec, &netio.OutFrame{Parts: [][]byte{frame(60), {}}}) == nil {
		t.Error("an empty part: no error")
	}
}

// reports is a test that must not pass unnoticed: it counts what is reported.
type reports struct {
	testing.TB
	errors int
}

func (r *reports) Errorf(string, ...any) { r.errors++ }
func (r *reports) Error(...any)          { r.errors++ }
func (r *reports) Helper()               {}

// TestViolationsAreReported breaks the contracts one by one.
func TestViolationsAreReported(t *testing.T) {
	r := &reports{TB: t}
	want := func(what string, do func()) {
		t.Helper()
		r.errors = 0
		if do(); r.errors == 0 {
			t.Errorf("%s was not reported", what)
		}
	}
	u := NewUnderlay(r)
	e := u.Backend(here)
	wires, err := e.OpenUDP(4789, 1)
	if err != nil {
		t.Fatal(err)
	}
	queues, err := e.OpenDevice(netio.DeviceSpec{Name: "vx0", MTU: 1450, Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	w, q := wires[0], queues[0]
	if _, err := e.OpenUDP(4789, 1); err == nil {
		t.Error("a port that is taken was opened")
	}
	if _, err := e.OpenDevice(netio.DeviceSpec{Name: "vx0", Queues: 1}); err == nil {
		t.Error("a TAP that is there was created")
	}
	bad := []netio.Send{goodSend()}
	bad[0].TTL = 0
	want("a bad send", func() { w.WriteBatch(bad) })
	want("another family", func() {
		s := goodSend()
		s.To = netip.MustParseAddrPort("[2001:db8::1]:4789")
		w.WriteBatch([]netio.Send{s})
	})
	want("a bad frame", func() { q.WriteBatch([]netio.OutFrame{{Parts: [][]byte{{1}}}}) })
	want("edges closed with all open", func() { e.Close() })
	q.Close()
	w.Close()
	r.errors = 0
	want("a TAP closed twice", func() { q.Close() })
	want("a socket closed twice", func() { w.Close() })
	want("a read of a closed TAP", func() { _ = q.ReadBatch(netio.NewFrameBatch(1, 0)) })
	want("a read of a closed socket", func() { _, _ = w.ReadBatch(make([]netio.Datagram, 1)) })
	want("a write of a closed TAP", func() { q.WriteBatch(nil) })
	want("a write of a closed socket", func() { w.WriteBatch(nil) })
	want("a question to a closed socket", func() { w.Dropped() })
	want("edges closed twice", func() { e.Close() })
	want("a datagram without a receiver", func() { u.Deliver(netip.AddrPortFrom(here, 4789), netio.Datagram{From: there}) })
}

// TestLentMemory wants what a wire handed over to be overwritten by its next
// batch.
func TestLentMemory(t *testing.T) {
	u := NewUnderlay(t)
	e := u.Backend(here)
	wires, err := e.OpenUDP(4789, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer wires[0].Close()
	data := packet(30)
	u.Deliver(netip.AddrPortFrom(here, 4789), netio.Datagram{From: there, Data: data})
	d := make([]netio.Datagram, 4)
	if n, err := wires[0].ReadBatch(d); n != 1 || err != nil || !bytes.Equal(d[0].Data, data) {
		t.Fatalf("%d, %v: %+v", n, err, d[0])
	}
	if n, err := wires[0].ReadBatch(d); n != 0 || err != nil || bytes.Equal(d[0].Data, data) {
		t.Errorf("%d, %v: %+v is as it was", n, err, d[0])
	}
}

// TestReadable wants the descriptors to be readable just while something waits.
func TestReadable(t *testing.T) {
	u := NewUnderlay(t)
	e := u.Backend(here)
	wires, err := e.OpenUDP(4789, 1)
	if err != nil {
		t.Fatal(err)
	}
	queues, err := e.OpenDevice(netio.DeviceSpec{Name: "vx0", MTU: 1450, Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer wires[0].Close()
	defer queues[0].Close()
	batch := netio.NewFrameBatch(1, 0)
	for name, c := range map[string]struct {
		fd  int
		put func()
		get func() error
	}{
		"wire": {wires[0].FD(),
			func() { u.Deliver(netip.AddrPortFrom(here, 4789), netio.Datagram{From: there, Data: packet(30)}) },
			func() error { _, err := wires[0].ReadBatch(make([]netio.Datagram, 1)); return err }},
		"device": {queues[0].FD(),
			func() { e.TAP("vx0").Inject(Frame{Data: packet(30)}) },
			func() error { batch.Reset(); return queues[0].ReadBatch(batch) }},
	} {
		step := func(what string, want bool) {
			t.Helper()
			p := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
			if n, err := unix.Poll(p, 0); err != nil || (n == 1) != want {
				t.Errorf("%s %s: readable %t, %v", name, what, n == 1, err)
			}
		}
		step("at first", false)
		c.put()
		c.put()
		step("with two", true)
		for range 3 {
			if err := c.get(); err != nil {
				t.Error(err)
			}
		}
		step("at last", false)
	}
}

// TestFaults wants every fault to happen, each seed to repeat itself, and every
// datagram to be accounted for.
func TestFaults(t *testing.T) {
	journey := func(seed uint64) ([]byte, Carried) {
		u := NewUnderlay(t)
		var ends []netio.Conn
		for _, addr := range []netip.Addr{here, there} {
			wires, err := u.Backend(addr).OpenUDP(4789, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer wires[0].Close()
			ends = append(ends, wires[0])
		}
		u.SetFaults(Faults{Seed: seed, Loss: 0.1, Duplicate: 0.1, Reorder: 0.1})
		for i := range 200 {
			s := goodSend()
			s.Parts[0][50] = byte(i)
			ends[0].WriteBatch([]netio.Send{s})
		}
		u.Release()
		d := make([]netio.Datagram, 400)
		n, err := ends[1].ReadBatch(d)
		if err != nil {
			t.Fatal(err)
		}
		var order []byte
		for _, one := range d[:n] {
			if one.From != here {
				t.Errorf("from %s", one.From)
			}
			order = append(order, one.Data[50])
		}
		return order, u.Carried()
	}
	order, c := journey(1)
	if again, _ := journey(1); !bytes.Equal(order, again) {
		t.Error("the same seed gave another journey")
	}
	if other, _ := journey(2); bytes.Equal(order, other) {
		t.Error("another seed gave the same journey")
	}
	if c.Sent != 200 || c.Lost == 0 || c.Duplicated == 0 || c.Delivered != len(order) || c.Sent+c.Duplicated != c.Delivered+c.Lost {
		t.Errorf("%+v with %d received", c, len(order))
	}
	overtaken := 0
	for i := 1; i < len(order); i++ {
		if order[i] < order[i-1] {
			overtaken++
		}
	}
	if overtaken == 0 {
		t.Error("nothing was overtaken")
	}
}

// TestRuns wants a run to arrive as one where GRO is on and as datagrams where
// not.
func TestRuns(t *testing.T) {
	for _, gro := range []bool{false, true} {
		u := NewUnderlay(t)
		u.SetGRO(gro)
		from, err := u.Backend(here).OpenUDP(4789, 1)
		if err != nil {
			t.Fatal(err)
		}
		to, err := u.Backend(there).OpenUDP(4789, 1)
		if err != nil {
			t.Fatal(err)
		}
		s := goodSend()
		s.Parts, s.SegSize = parts(100, 100, 40), 100
		from[0].WriteBatch([]netio.Send{s})
		d := make([]netio.Datagram, 4)
		n, err := to[0].ReadBatch(d)
		if err != nil {
			t.Fatal(err)
		}
		if gro && (n != 1 || d[0].SegSize != 100 || len(d[0].Data) != 240) {
			t.Errorf("%d datagrams: %+v", n, d[0])
		}
		if !gro && (n != 3 || d[0].SegSize != 0 || len(d[2].Data) != 40) {
			t.Errorf("%d datagrams: %+v", n, d[0])
		}
		from[0].Close()
		to[0].Close()
	}
}
