package dataplane

import (
	"errors"
	"net/netip"

	"overtap/encap"
)

// Options are fixed for an engine's life.
type Options struct {
	Underlay netip.Addr // outer source address; sockets bind to it
	Device   string     // bind the sockets to this device too; "" = any
	Workers  int        // pairs of outbound and inbound threads; 0 = one per CPU
	// SourcePorts is the size of the pool of source ports that spreads flows
	// over the underlay's equal-cost paths; 0 = 32.
	SourcePorts int
	Edges       Edges // nil = this host's TAPs and UDP sockets
}

// EventKind says what happened to the engine that its owner should act on.
type EventKind uint8

// The events.
const (
	// DeviceLost: a network's TAP was deleted under the engine. Its queues are
	// closed; removing and adding the network opens them anew.
	DeviceLost EventKind = iota
	// SegmentationRefused: the underlay's route refuses UDP_SEGMENT; the
	// engine sends every datagram alone from now on.
	SegmentationRefused
)

// Event is one such happening.
type Event struct {
	Kind    EventKind
	Network string
	Err     error
}

// Engine forwards frames between TAPs and the wire. Its door is Apply and Stats
// (with FDB, Info and Flush beside them for the operator's eyes and hands).
type Engine struct{}

var errNotYet = errors.New("not yet")

// New starts the engine's threads; nothing is forwarded before Apply.
func New(o Options) (*Engine, error) { return nil, errNotYet }

// Apply makes what runs be d and says what changed. On an error what ran before
// still runs, unchanged. It may be called from any goroutine.
func (e *Engine) Apply(d Desired) (Diff, error) { return Diff{}, errNotYet }

// Stats copies out all counters.
func (e *Engine) Stats() Stats { return Stats{} }

// Info says what the kernel granted.
func (e *Engine) Info() Info { return Info{} }

// FDB copies out the forwarding entries of the named network, or of all for "",
// ordered by network and MAC.
func (e *Engine) FDB(network string) ([]FDBEntry, error) { return nil, errNotYet }

// Match selects learned entries; zero fields match everything.
type Match struct {
	Network string
	MAC     encap.MAC
	Peer    netip.Addr
}

// Flush forgets the learned entries that m selects and returns how many.
// Static entries go by Apply.
func (e *Engine) Flush(m Match) (int, error) { return 0, errNotYet }

// Events delivers what the owner should act on. It is never closed before Close.
func (e *Engine) Events() <-chan Event { return nil }

// Close stops the threads and closes every TAP and socket; the TAPs vanish.
func (e *Engine) Close() error { return nil }
