// Package cluster lets hosts find each other and their containers. Each member
// publishes a record of itself: its VTEP, the networks that it is in, and the
// containers that are attached to them. From the records of all, a View says what a
// network's peers, forwarding entries and neighbours are.
//
// A record counts only as from the member that carries it: it is fetched from that
// member, and cannot be changed by another.
package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"overtap/dataplane"
	"overtap/encap"
)

// Bounds of a record. One that exceeds them is refused whole.
const (
	MaxNodeName  = 64
	maxVersion   = 64
	maxNetworks  = 4096
	maxEndpoints = 65536
	MaxAddresses = 16 // of an endpoint
	maxLabel     = 256
)

// Record is all that a member says of itself.
type Record struct {
	Node      Node       `json:"node"`
	Networks  []Network  `json:"networks"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Node is a host.
type Node struct {
	Name    string     `json:"name"`
	VTEP    netip.Addr `json:"vtep"` // its address on the underlay
	Version string     `json:"version"`
}

// Key is what tells networks apart on the wire.
type Key struct {
	VNI  encap.VNI `json:"vni"`
	Port uint16    `json:"port"` // UDP
}

// KeyOf returns the key of a network.
func KeyOf(n *dataplane.Network) Key { return Key{n.VNI, n.Port} }

// Network is a network that a node is in.
type Network struct {
	Key
	MTU   encap.OverlayMTU `json:"mtu"`
	MAC   encap.MAC        `json:"mac"`            // of the node's TAP
	Range netip.Prefix     `json:"range,omitzero"` // of which the node gives out addresses
}

// Endpoint is a container on a network.
type Endpoint struct {
	Key
	MAC       encap.MAC    `json:"mac"`
	Addresses []netip.Addr `json:"addresses"`
	Name      string       `json:"name"`
	// Sequence grows whenever the MAC appears on a node where it was not before: of
	// several claims the highest holds.
	Sequence uint64 `json:"sequence"`
}

// CheckName is an error when a node cannot have the name.
func CheckName(s string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if s == "" || len(s) > MaxNodeName || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("cannot be a node's name; want 1 to %d of the characters A-Z, a-z, 0-9, '.', '_' and '-'", MaxNodeName)
	}
	return nil
}

// Check is an error when the record cannot be right, whatever this host is.
func (r *Record) Check() error {
	if err := r.Node.check(); err != nil {
		return err
	}
	switch {
	case len(r.Networks) > maxNetworks:
		return fmt.Errorf("%d networks; want at most %d", len(r.Networks), maxNetworks)
	case len(r.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints; want at most %d", len(r.Endpoints), maxEndpoints)
	}
	in := make(map[Key]bool, len(r.Networks))
	for _, n := range r.Networks {
		if n.VNI > encap.MaxVNI || n.Port == 0 || in[n.Key] {
			return fmt.Errorf("network with VNI %d on port %d: want a VNI up to %d, a port, and each only once", n.VNI, n.Port, encap.MaxVNI)
		}
		in[n.Key] = true
	}
	seen := make(map[endpointKey]bool, len(r.Endpoints))
	for i := range r.Endpoints {
		e := &r.Endpoints[i]
		if err := e.check(in); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.MAC, err)
		}
		if seen[e.key()] {
			return fmt.Errorf("endpoint %s: stands twice", e.MAC)
		}
		seen[e.key()] = true
	}
	return nil
}

func (n *Node) check() error {
	if err := CheckName(n.Name); err != nil {
		return fmt.Errorf("node %.80q %w", n.Name, err)
	}
	if err := dataplane.CheckPeer(n.VTEP, netip.Addr{}); err != nil {
		return fmt.Errorf("VTEP %s %w", n.VTEP, err)
	}
	if len(n.Version) > maxVersion {
		return fmt.Errorf("a version of %d bytes; want at most %d", len(n.Version), maxVersion)
	}
	return nil
}

func (e *Endpoint) check(in map[Key]bool) error {
	switch {
	case !in[e.Key]:
		return errors.New("is on a network that its node is not in")
	case !e.MAC.IsSource():
		return errors.New("is not the MAC of one host")
	case len(e.Addresses) > MaxAddresses:
		return fmt.Errorf("has %d addresses; want at most %d", len(e.Addresses), MaxAddresses)
	case len(e.Name) > maxLabel:
		return fmt.Errorf("has a name of %d bytes; want at most %d", len(e.Name), maxLabel)
	}
	for _, a := range e.Addresses {
		if err := dataplane.CheckUnicast(a); err != nil {
			return fmt.Errorf("address %s %w", a, err)
		}
	}
	return nil
}

// endpointKey is what only one node can have.
type endpointKey struct {
	Key
	mac encap.MAC
}

func (e *Endpoint) key() endpointKey { return endpointKey{e.Key, e.MAC} }

// sorted puts networks and endpoints in a fixed order, so that equal records are
// written alike.
func (r *Record) sorted() {
	slices.SortFunc(r.Networks, func(a, b Network) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(r.Endpoints, func(a, b Endpoint) int {
		return cmp.Or(compareKeys(a.Key, b.Key), cmp.Compare(a.MAC, b.MAC))
	})
}

func compareKeys(a, b Key) int { return cmp.Or(cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Port, b.Port)) }
