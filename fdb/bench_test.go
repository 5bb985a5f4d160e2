package fdb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"overtap/encap"
)

// benchTable returns a table of n learned entries and their MACs in random order.
func benchTable(b *testing.B, n int) (*Table, []encap.MAC) {
	b.Helper()
	t := NewTable(n, 300, NewClock())
	macs := make([]encap.MAC, n)
	for i := range macs {
		macs[i] = encap.MAC(rand.Uint64()) & macBits &^ (1 << 40)
		t.Learn(macs[i], PeerID(i%1000+1))
	}
	return t, macs
}

var sizes = []int{1_000, 10_000, 1_000_000}

var sink PeerID

func BenchmarkLookupHit(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, macs := benchTable(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p, ok := t.Lookup(macs[i])
				if !ok {
					b.Fatal("miss")
				}
				sink = p
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// BenchmarkLookupChain makes each address depend on the answer before, so that
// the processor cannot fetch ahead: latency, where LookupHit shows throughput.
func BenchmarkLookupChain(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, macs := benchTable(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p, _ := t.Lookup(macs[i])
				if i += int(p & 1); i >= n-1 {
					i = 0
				}
				i++
			}
		})
	}
}

func BenchmarkLookupMiss(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, _ := benchTable(b, n)
			b.ReportAllocs()
			m := encap.MAC(1 << 40) // multicast: never learned
			for b.Loop() {
				if _, ok := t.Lookup(m); ok {
					b.Fatal("hit")
				}
				m += 2
			}
		})
	}
}

func BenchmarkLearnKnown(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, macs := benchTable(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if v := t.Learn(macs[i], PeerID(i%1000+1)); v != LearnKnown {
					b.Fatal(v)
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

func BenchmarkLookupParallel(b *testing.B) {
	t, macs := benchTable(b, 10_000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := t.Lookup(macs[i%len(macs)]); !ok {
				b.Error("miss")
			}
		}
	})
}

func BenchmarkLearnForget(b *testing.B) {
	t, _ := benchTable(b, 10_000)
	t.max++
	b.ReportAllocs()
	m := encap.MAC(1 << 40)
	for b.Loop() {
		t.Learn(m, 1)
		t.Forget(m)
		m += 2
	}
}

func BenchmarkAdmitKnown(b *testing.B) {
	for _, n := range []int{10, 1_000} {
		for _, v := range []string{"192.0.2.0", "2001:db8::"} {
			b.Run(fmt.Sprintf("%s/%d", v, n), func(b *testing.B) {
				p := NewPeers(netip.Addr{}, 0, NewClock())
				want := make([]Peer, n)
				for i, a := 0, netip.MustParseAddr(v); i < n; i++ {
					a = a.Next()
					want[i].Addr = a
				}
				if _, err := p.Set(want, Policy{}); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if _, a := p.Admit(want[i].Addr); a != AdmitKnown {
						b.Fatal(a)
					}
					if i++; i == n {
						i = 0
					}
				}
			})
		}
	}
}

func BenchmarkAdmitDenied(b *testing.B) {
	p := NewPeers(netip.Addr{}, 0, NewClock())
	if _, err := p.Set(nil, Policy{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}); err != nil {
		b.Fatal(err)
	}
	a := netip.MustParseAddr("203.0.113.1")
	b.ReportAllocs()
	for b.Loop() {
		if _, v := p.Admit(a); v != AdmitDenied {
			b.Fatal(v)
		}
	}
}
