// Package attach joins a container to a network by a veth pair: one end a port
// of the network's bridge, the other a device in the container's network
// namespace, with address, route and MTU, once the address was found to be free.
//
// Two processes share the work. The command finds the target and opens its
// namespace (Resolve), because what a PID, a path or a container's name means is
// what the operator's shell sees. The daemon does the rest (Attacher), because
// it has the privileges and knows the bridge and its MTU; it is handed the open
// namespace, not a name, so it may live in other PID and mount namespaces.
//
// The daemon keeps no record. Its mark is the host-side veth's link alias, which
// holds the network and the target as the operator named it; device, MAC and
// addresses are read from the container's end. So attachments outlive the
// daemon, are found again by the next one, and are gone when their container is:
// the kernel deletes a veth pair with the namespace of either end. No namespace
// is held open between requests, for that would keep it alive.
package attach

import (
	"net/netip"

	"overtap/cmd/internal/host"
	"overtap/encap"
)

// Network is what an attachment joins: a bridge that exists, whose port the TAP is. Both
// ends of the veth pair get its MTU, and no container may have the TAP's MAC.
type Network = host.Network

// Request says what to attach, and how.
type Request struct {
	Network   string         `json:"network"`
	Target    string         `json:"target"`             // as the operator named it
	IfName    string         `json:"ifname,omitempty"`   // in the target; "" = the first free of eth0, eth1…
	MAC       encap.MAC      `json:"mac,omitzero"`       // zero = made from the first address
	Addresses []netip.Prefix `json:"addresses"`          // at least one, unless Auto
	Auto      bool           `json:"auto,omitempty"`     // and a free one of the network's range
	Gateways  []netip.Addr   `json:"gateways,omitempty"` // of default routes, at most one a family
}

// Selector says what to detach.
type Selector struct {
	Network string `json:"network"`
	Target  string `json:"target"`           // as the operator names it
	IfName  string `json:"ifname,omitempty"` // "" = the only one
}

// MaxListed bounds the addresses of an attachment that List returns.
const MaxListed = 32

// Attachment is a device of a container that is on a network.
type Attachment struct {
	Network   string           `json:"network"`
	Target    string           `json:"target"` // as it was named
	IfName    string           `json:"ifname"` // in the target; "" where the kernel would not say
	MAC       encap.MAC        `json:"mac"`
	MTU       encap.OverlayMTU `json:"mtu"`       // of the same; of the host's end where the kernel would not say
	Addresses []netip.Prefix   `json:"addresses"` // without link-local ones; of a list at most MaxListed
	// MoreAddresses is how many it has beside those that are listed: a container may
	// give itself any number.
	MoreAddresses int    `json:"more_addresses,omitempty"`
	Veth          string `json:"veth"`   // the other end, on the host
	Bridge        string `json:"bridge"` // "" = on none for now
}

// Made is an attachment just made.
type Made struct {
	Attachment
	Gateways []netip.Addr `json:"gateways"`
}
