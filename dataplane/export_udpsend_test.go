package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// What the tests of sending need to know of the sizes inside.
const (
	SendBatch = sendBatch
	MaxIovecs = maxIovecs
)

// HostEdges opens the edges of the network namespace the caller is in.
func HostEdges(o Options, workers int) (Edges, error) { return newHostEdges(o, workers) }

// NoteRefusal notes that the route to the peer takes no runs.
func NoteRefusal(e Edges, to netip.Addr, errno unix.Errno) {
	e.(*hostEdges).sources.refuse(to, errno)
}
