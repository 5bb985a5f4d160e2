package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"overtap/fdb"
)

// The rates that buckets are measured at: one that always has a token, one that
// never has.
const (
	ample  = 1_000_000_000
	scarce = 1
)

// BenchmarkStorm is what a bound costs a flooded frame, the clock included, beside
// golang.org/x/time/rate, for one thread and for as many as there are CPUs at the
// same bucket.
func BenchmarkStorm(b *testing.B) {
	for name, perSecond := range map[string]uint32{"passes": ample, "refused": scarce} {
		interval := Storm{Broadcast: perSecond}.rates()[stormBroadcast]
		b.Run("meter/"+name, func(b *testing.B) {
			m := new(meter)
			for b.Loop() {
				m.take(clockNow(), interval, 1, depth)
			}
		})
		b.Run("meter/parallel/"+name, func(b *testing.B) {
			m := new(meter)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					m.take(clockNow(), interval, 1, depth)
				}
			})
		})
		b.Run("rate/"+name, func(b *testing.B) {
			l := rate.NewLimiter(rate.Limit(perSecond), int(perSecond))
			for b.Loop() {
				l.AllowN(time.Now(), 1)
			}
		})
		b.Run("rate/parallel/"+name, func(b *testing.B) {
			l := rate.NewLimiter(rate.Limit(perSecond), int(perSecond))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.AllowN(time.Now(), 1)
				}
			})
		})
		b.Run("network and peer/"+name, func(b *testing.B) {
			n, p, id := stormNetwork(b, perSecond)
			for b.Loop() {
				n.allowFrom(id, stormBroadcast, p, 1)
			}
		})
	}
	b.Run("clock", func(b *testing.B) {
		for b.Loop() {
			clockNow()
		}
	})
}

// stormNetwork has a bound of its own and one for each peer.
func stormNetwork(b *testing.B, perSecond uint32) (*network, *policy, fdb.PeerID) {
	b.Helper()
	r := Storm{Broadcast: perSecond}.rates()
	peerAddr := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	n := &network{netBase: netBase{peers: fdb.NewPeers(netip.AddrFrom4([4]byte{192, 0, 2, 9}), 0, fdb.NewClock())}}
	if _, err := n.peers.Set([]fdb.Peer{{Addr: peerAddr}, {Addr: peerAddr.Next()}}, fdb.Policy{}); err != nil {
		b.Fatal(err)
	}
	id, _ := n.peers.ID(peerAddr)
	return n, &policy{storm: r, peerStorm: r}, id
}
