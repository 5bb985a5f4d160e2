// Package control is the daemon's ear: JSON over HTTP on a unix socket, a
// server for the daemon and a client for the command line. The paths carry a
// version; what they answer is part of the command line's contract.
package control

import (
	"context"
	"net/netip"
	"os"
	"time"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/config"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// SocketVar is the environment variable that names the daemon's socket to the
// command line, where --socket does not. `overtap lab exec` sets it.
const SocketVar = "OVERTAP_SOCKET"

// The paths.
const (
	pathStatus  = "/v1/status"
	pathStats   = "/v1/stats"
	pathFDB     = "/v1/fdb"
	pathFlush   = "/v1/fdb/flush"
	pathPage    = "/v1/fdb/page"
	pathNeigh   = "/v1/neigh"
	pathAttach  = "/v1/attach"
	pathDetach  = "/v1/detach"
	pathReload  = "/v1/reload"
	pathDryRun  = "/v1/reload/dry-run" // a path of its own: a daemon that lacks it must not reload
	pathWatch   = "/v1/fdb/watch"
	pathExplain = "/v1/explain"
	pathResolve = "/v1/resolve"
	pathCapture = "/v1/capture"
	pathCluster = "/v1/cluster"

	pathTakeover = "/v1/takeover"
)

// Daemon is what the server needs of the daemon; an error's text is for the
// operator.
type Daemon interface {
	// Status says what runs.
	Status() Status
	// Stats copies out all counters.
	Stats() dataplane.Stats
	// FDB copies out the forwarding entries of the named network, or of all
	// for "".
	FDB(network string) ([]dataplane.FDBEntry, error)
	// FDBPage copies out those forwarding entries that q selects.
	FDBPage(q FDBQuery) (FDBPage, error)
	// Neighbors copies out the neighbours of the named network, or of all for "".
	Neighbors(network string) ([]dataplane.NeighborEntry, error)
	// AddFDB adds a static entry that belongs to the command line, and says what
	// it displaced. The network may be "" when there is only one.
	AddFDB(e Entry) (Added, error)
	// DeleteFDB removes an entry of the command line, or a learned one, and
	// returns it.
	DeleteFDB(network string, mac encap.MAC) (Deleted, error)
	// WatchFDB calls emit with the changes of the named network's forwarding
	// table, or of all for "", and how many were lost, until ctx ends or emit
	// fails; first of all with none.
	WatchFDB(ctx context.Context, network string, emit func([]dataplane.FDBChange, uint64) error) error
	// Resolve says how this host would address a packet to an inner address of the
	// named network; "" is the only one.
	Resolve(network string, a netip.Addr) (Resolved, error)
	// Explain says what would become of a frame, and changes nothing.
	Explain(p dataplane.Query) (dataplane.Explanation, error)
	// Capture calls emit with what is seen on the path, and how many frames were
	// lost, until ctx ends or emit fails; first of all with none.
	Capture(ctx context.Context, spec dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error
	// FlushFDB forgets the learned entries that m selects and returns how many.
	FlushFDB(m Match) (int, error)
	// Reload reads the configuration again and makes what runs be what it says;
	// with dryRun it changes nothing, and says what it would.
	Reload(dryRun bool) (Reloaded, error)
	// Attach joins a container's network namespace to a network. When ctx ends
	// first, nothing is attached. The caller closes ns.
	Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error)
	// Detach removes an attachment of a namespace or, when ns is nil, one that
	// was made under the target's name. The caller closes ns.
	Detach(ns *os.File, s attach.Selector) (attach.Attachment, error)
	// Cluster says what is known of the cluster's members.
	Cluster() (Cluster, error)
	// HandOver leaves everything to the daemon at the other end of s, and this
	// one ends; or that one gives up, and this one goes on as it was.
	HandOver(s *Handover)
}

// Entry is a static forwarding entry as the command line gives it.
type Entry struct {
	Network string     `json:"network"`
	MAC     encap.MAC  `json:"mac"`
	Peer    netip.Addr `json:"peer"`
}

// Added says what adding an entry did.
type Added struct {
	Network string `json:"network"`
	// Peer and Origin are those of the entry that the MAC had, if it had one.
	Peer   netip.Addr `json:"peer,omitzero"`
	Origin string     `json:"origin,omitempty"`
	// Admits says that frames from the entry's peer were not taken before.
	Admits bool `json:"admits"`
}

// Deleted is an entry that was removed.
type Deleted struct {
	Network string     `json:"network"`
	Peer    netip.Addr `json:"peer"`
	Origin  string     `json:"origin"`
}

// Reloaded says what a reload changed: networks and tunnels, by name.
type Reloaded struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
	Routes  bool     `json:"routes"` // the plain host routes are others
	// Details are the keys that changed, at most MaxDetails of them; MoreDetails is
	// how many there are beside those.
	Details     []config.Change `json:"details"`
	MoreDetails int             `json:"more_details,omitempty"`
	DryRun      bool            `json:"dry_run,omitempty"` // nothing was changed
}

// MaxDetails bounds the keys that an answer to a reload names.
const MaxDetails = 1000

// Match selects learned entries; what is zero or absent matches everything.
type Match struct {
	Network string     `json:"network,omitempty"`
	MAC     encap.MAC  `json:"mac,omitzero"`
	Peer    netip.Addr `json:"peer,omitzero"`
}

// Status says what runs.
type Status struct {
	Version     string   `json:"version"`
	PID         int      `json:"pid"`
	Ready       bool     `json:"ready"`
	Problems    []string `json:"problems"` // why it is not ready
	Warnings    []string `json:"warnings"` // what may go wrong though it is ready
	Uptime      uint64   `json:"uptime_seconds"`
	Config      string   `json:"config"` // path of the file
	Underlay    Underlay `json:"underlay"`
	Workers     int      `json:"workers"`
	SourcePorts []uint16 `json:"source_ports"`
	// SegmentationRefused: the route to some peer refused UDP_SEGMENT, so that
	// every datagram is sent alone there for a while.
	SegmentationRefused bool `json:"segmentation_refused"`
	// ChecksumErrors is that of dataplane.Stats.
	ChecksumErrors uint64 `json:"udp_checksum_errors"`
	// Offloads says of each key of [offload] whether it is at work, and why not.
	Offloads []dataplane.OffloadInfo `json:"offloads"`
	// Uplink says which way GSO packets leave.
	Uplink   netio.UplinkInfo `json:"uplink"`
	Networks []NetworkStatus  `json:"networks"`
	Peers    []PeerStatus     `json:"peers"`
	// Attachments are the containers that `overtap attach` joined.
	Attachments []attach.Attachment `json:"attachments"`
}

// Underlay is the network that carries the outer packets.
type Underlay struct {
	Address netip.Addr        `json:"address"`
	Device  string            `json:"device"` // "" = any
	MTU     encap.UnderlayMTU `json:"mtu"`
}

// NetworkStatus is one network as it runs.
type NetworkStatus struct {
	dataplane.NetworkInfo
	// Problem: one of the status's Problems is of this network: it carries nothing,
	// or something of it is missing on the host.
	Problem        bool           `json:"problem"`
	Bridge         string         `json:"bridge"` // "" = none
	Addresses      []netip.Prefix `json:"addresses"`
	Entries        int            `json:"entries"` // in the FDB; of a tunnel, its routes
	EntriesLearned int            `json:"entries_learned"`
	EntriesMax     int            `json:"entries_max"`
}

// PeerStatus is the way to one peer of one network or tunnel.
type PeerStatus struct {
	Network string     `json:"network"`
	Peer    netip.Addr `json:"peer"`
	// PathMTU is the longest outer packet in bytes that reaches the peer, 0
	// where nothing is known to be too long.
	PathMTU encap.UnderlayMTU   `json:"pmtu"`
	State   dataplane.PeerState `json:"state"`
	// LastHeard is when a frame or a probe of it was admitted last; zero = never.
	LastHeard time.Time `json:"last_heard,omitzero"`
	*dataplane.Probe
}

// flushed answers a flush.
type flushed struct {
	Flushed int `json:"flushed"`
}

// failure answers a request that was refused.
type failure struct {
	Error string `json:"error"`
}
