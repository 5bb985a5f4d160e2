package fdb

import "fmt"

// PeerID names a remote VTEP within one network. It has 24 bits, is small and
// dense, so that it may index an array of counters, and is reused after
// Peers.Release.
type PeerID uint32

// NoPeer is no peer's ID.
const NoPeer PeerID = 0

// maxPeerID is the largest ID that fits a table entry.
const maxPeerID PeerID = 1<<24 - 1

// Origin says who made an entry. Its numeric value is its rank: a higher origin
// displaces a lower one and is never displaced by it. Control planes take the
// values between Learned and Static.
type Origin uint8

// The origins that are always there.
const (
	Learned Origin = 1  // from the source address of a received frame; ages
	Cluster Origin = 8  // from the other members of a cluster
	Static  Origin = 15 // from the operator
)

// String returns "learned", "cluster" or "static"; other origins are shown by their rank.
func (o Origin) String() string {
	switch o {
	case Learned:
		return "learned"
	case Cluster:
		return "cluster"
	case Static:
		return "static"
	}
	return fmt.Sprintf("origin(%d)", uint8(o))
}
