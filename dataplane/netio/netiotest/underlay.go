package netiotest

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"overtap/dataplane/netio"
)

// Faults are what an underlay does to the datagrams it carries. Each is the
// probability that it befalls a datagram.
type Faults struct {
	Seed      uint64
	Loss      float64
	Duplicate float64
	Reorder   float64 // the datagram is overtaken by the next to the same socket
}

// Carried counts what became of datagrams. Sent + Duplicated = Delivered + Lost
// + Nowhere + those held back to be overtaken, which Release lets go.
type Carried struct {
	Sent       int // by engines
	Lost       int // by Faults
	Duplicated int
	Delivered  int // into a socket; to a group, once for each member
	Nowhere    int // no socket had the address and port
}

// Underlay is a network in memory that joins the Backend of several hosts.
type Underlay struct {
	tb   testing.TB
	seed maphash.Seed

	mu      sync.Mutex
	sockets map[netip.AddrPort][]*Conn // by bound address: a worker each
	members map[netip.AddrPort][]*Conn // by group
	faults  Faults
	random  *rand.Rand
	held    []delivery
	carried Carried
	gro     bool
}

// delivery is one datagram on its way to a socket.
type delivery struct {
	to   *Conn
	from netip.Addr
	tos  uint8
	send *netio.Send // whose payload it is
	data []byte
}

// NewUnderlay returns an underlay without hosts. It reports to tb.
func NewUnderlay(tb testing.TB) *Underlay {
	return &Underlay{
		tb: tb, seed: maphash.MakeSeed(),
		sockets: make(map[netip.AddrPort][]*Conn), members: make(map[netip.AddrPort][]*Conn),
	}
}

// SetFaults begins again with f; the zero value carries everything.
func (u *Underlay) SetFaults(f Faults) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.faults, u.random = f, rand.New(rand.NewPCG(f.Seed, f.Seed))
}

// SetGRO chooses whether sockets get datagrams of equal size and one send as
// runs (UDP_GRO) or one by one.
func (u *Underlay) SetGRO(on bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gro = on
}

// Carried returns the counters.
func (u *Underlay) Carried() Carried {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.carried
}

// Release delivers what waits to be overtaken.
func (u *Underlay) Release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	held := u.held
	u.held = nil
	u.deliver(held)
}

// Deliver puts d, copied, into the socket that has to, or into one each of the
// members of the group, as it is: this is how a test sends what no engine would.
func (u *Underlay) Deliver(to netip.AddrPort, d netio.Datagram) {
	u.tb.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	wires := u.route(nil, d.From, to, 0)
	if len(wires) == 0 {
		u.tb.Errorf("a datagram for %s: no socket has that address and port", to)
	}
	for _, w := range wires {
		w.receive(d, 1) // whatever SegSize says
		u.carried.Delivered++
	}
}

// route returns the sockets that get a datagram from sender, which is nil when
// a test sends.
func (u *Underlay) route(sender *Backend, from netip.Addr, to netip.AddrPort, flow uint32) []*Conn {
	if to.Addr().IsMulticast() {
		var wires []*Conn
		for _, w := range u.members[to] {
			if w.backend != sender { // IP_MULTICAST_LOOP is off
				wires = append(wires, w)
			}
		}
		return wires
	}
	wires := u.sockets[to]
	if len(wires) == 0 {
		return nil
	}
	i := maphash.Comparable(u.seed, struct {
		from netip.Addr
		flow uint32
	}{from, flow}) % uint64(len(wires))
	return wires[i : i+1]
}

// carry takes what a Conn sends to its destinations.
func (u *Underlay) carry(e *Backend, s *netio.Send, payloads [][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.carried.Sent += len(payloads)
	wires := u.route(e, e.addr, s.To, s.Flow)
	if len(wires) == 0 {
		u.carried.Nowhere += len(payloads)
	}
	for _, w := range wires {
		var ready []delivery
		for _, p := range payloads {
			ready = u.applyFaults(ready, delivery{to: w, from: e.addr, tos: s.TOS, send: s, data: p})
		}
		u.deliver(ready)
	}
}

// applyFaults appends p as the faults leave it, and what p overtakes.
func (u *Underlay) applyFaults(ready []delivery, p delivery) []delivery {
	f := u.faults
	if u.chance(f.Loss) {
		u.carried.Lost++
		return ready
	}
	copies := []delivery{p}
	if u.chance(f.Duplicate) {
		u.carried.Duplicated++
		copies = append(copies, p)
	}
	if u.chance(f.Reorder) {
		u.held = append(u.held, copies...)
		return ready
	}
	ready = append(ready, copies...)
	u.held = slices.DeleteFunc(u.held, func(h delivery) bool {
		if h.to == p.to {
			ready = append(ready, h)
		}
		return h.to == p.to
	})
	return ready
}

func (u *Underlay) chance(p float64) bool { return p > 0 && u.random.Float64() < p }

// deliver puts the parcels into their sockets; with GRO on, those of one send
// that follow each other and have one size, but for the last, as one run.
func (u *Underlay) deliver(parcels []delivery) {
	for len(parcels) > 0 {
		n := 1
		if u.gro {
			n = run(parcels)
		}
		first := parcels[0]
		d := netio.Datagram{From: first.from, TOS: first.tos}
		for _, p := range parcels[:n] {
			d.Data = append(d.Data, p.data...)
		}
		if n > 1 {
			d.SegSize = len(first.data)
		}
		first.to.receive(d, n)
		u.carried.Delivered += n
		parcels = parcels[n:]
	}
}

// run is how many parcels from the first on one receive may bring.
func run(parcels []delivery) int {
	first, total := parcels[0], len(parcels[0].data)
	for n := 1; n < len(parcels); n++ {
		p := parcels[n]
		total += len(p.data)
		if p.send != first.send || p.to != first.to || len(p.data) > len(first.data) ||
			len(parcels[n-1].data) != len(first.data) || total > netio.MaxDatagram {
			return n
		}
	}
	return len(parcels)
}
