package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// defaultSocket is where the daemon listens when the configuration does not
// say otherwise.
const defaultSocket = "/run/overtap/control.sock"

// daemonFlags are the flags of the verbs that ask the daemon.
type daemonFlags struct {
	socket string
}

func (f *daemonFlags) add(c *cobra.Command) {
	socket := os.Getenv(control.SocketVar)
	if socket == "" {
		socket = defaultSocket
	}
	c.Flags().StringVar(&f.socket, "socket", socket, "the daemon's control socket: a `PATH`")
}

func (f *daemonFlags) client() *control.Client { return control.NewClient(f.socket) }

// addParsed adds a flag whose text parse reads into *to.
func addParsed[T any](c *cobra.Command, to *T, parse func(string) (T, error), name, usage string) {
	c.Flags().Func(name, usage, func(s string) (err error) {
		*to, err = parse(s)
		return err
	})
}

// addListed is addParsed for a flag that may be repeated.
func addListed[T any](c *cobra.Command, to *[]T, parse func(string) (T, error), name, usage string) {
	c.Flags().Func(name, usage, func(s string) error {
		v, err := parse(s)
		*to = append(*to, v)
		return err
	})
}

// addOneOf adds a flag that takes one of the words, or is left out.
func addOneOf(c *cobra.Command, to *string, words []string, name, usage string) {
	parse := func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("%s %q: want one of %s", name, s, strings.Join(words, ", "))
		}
		return s, nil
	}
	addParsed(c, to, parse, name, usage+": "+strings.Join(words, ", "))
	complete(c, name, completeWords(words))
}

// addNetwork adds the flag that names a network.
func addNetwork(c *cobra.Command, network *string, usage string) {
	c.Flags().StringVar(network, "network", "", usage)
	complete(c, "network", completeNetworks)
}

// The help of --network, for verbs that act on one network, and for those that take
// all without the flag.
const (
	networkName = "the network's `NAME`"
	onlyNetwork = "only the network `NAME`"
)

// addPeer adds a flag that names a peer.
func addPeer(c *cobra.Command, peer *netip.Addr, name, usage string) {
	addParsed(c, peer, parsePeer, name, usage)
	complete(c, name, completePeers)
}

// addMAC adds a flag that names a MAC address.
func addMAC(c *cobra.Command, mac *encap.MAC, name, usage string) {
	addParsed(c, mac, encap.ParseMAC, name, usage)
}

// addAddress adds a flag that names an inner address.
func addAddress(c *cobra.Command, a *netip.Addr, name, usage string) {
	addParsed(c, a, parseAddress, name, usage)
}

// Parsers of addresses.
var (
	parsePeer    = addrParser("peer", "192.0.2.2 or 2001:db8::2")
	parseAddress = addrParser("address", "198.51.100.2 or 2001:db8:1::2")
	parseGateway = addrParser("gateway", "198.51.100.1 or 2001:db8::1")
)

// addrParser returns a parser whose error names what it parses, and examples.
func addrParser(what, examples string) func(string) (netip.Addr, error) {
	return func(s string) (netip.Addr, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return a, fmt.Errorf("%s %q: want an IP address such as %s", what, s, examples)
		}
		return a.Unmap(), nil
	}
}

func parseReason(s string) (d dataplane.Drop, err error) {
	if err = d.UnmarshalText([]byte(s)); err != nil {
		err = fmt.Errorf("%w: `overtap stats` and docs/troubleshooting.md name them", err)
	}
	return d, err
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("address %q: want one with its prefix length, such as 198.51.100.2/24 or 2001:db8::2/64", s)
	}
	return p, nil
}
