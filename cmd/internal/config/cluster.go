package config

import (
	"cmp"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"overtap/dataplane"
)

// Cluster says how this host finds the others of the networks with cluster = true. The
// zero value is none.
type Cluster struct {
	On       bool // there is a [cluster]
	Node     string
	Join     []string       // addresses or DNS names, with or without port
	Bind     netip.AddrPort // where this host gossips
	KeyFile  string
	Insecure bool // without keys
	TTL      time.Duration
}

const (
	clusterPort = 7946 // memberlist's
	defaultTTLs = 15 * time.Second
)

// cluster checks [cluster].
func (c *checker) cluster(raw *rawConfig, own netip.Addr) Cluster {
	r := &raw.Cluster
	if raw.at.table["cluster"] == nil {
		return Cluster{}
	}
	c.oneOf(r.Backend, "gossip", "gossip")
	out := Cluster{
		On:       true,
		Node:     c.nodeName(r.Node),
		Bind:     c.bindAddress(r.Bind, own),
		KeyFile:  c.keyFile(r.KeyFile),
		Insecure: r.Insecure.or(false),
		TTL:      c.ttl(r.TTL),
	}
	if out.KeyFile == "" && !out.Insecure && (r.KeyFile.at == nil || r.KeyFile.ok) {
		c.fail(cmp.Or(r.KeyFile.at, r.unset("key_file")), "the gossip would not be encrypted; want the path of a file with a key, as `openssl rand -base64 32` makes it, or insecure = true, with which every host that reaches the port is a member")
	}
	for _, j := range r.Join.v {
		if !isMember(j.v) {
			c.fail(j.at, `is not a member to join; want an address or a DNS name, such as "192.0.2.2" or "hosts.example.net", with a port where it is not %d`, clusterPort)
			continue
		}
		out.Join = append(out.Join, j.v)
	}
	return out
}

// keyFile checks the path of the keys.
func (c *checker) keyFile(l leaf[string]) string {
	if l.v != "" && (!filepath.IsAbs(l.v) || strings.HasSuffix(l.v, "/") || strings.ContainsRune(l.v, 0)) {
		c.fail(l.at, "is not the absolute path of a file; want one such as %q", "/etc/overtap/cluster.key")
	}
	return l.v
}

// nodeName is this host's name in the cluster; "" = its hostname.
func (c *checker) nodeName(l leaf[string]) string {
	if l.v == "" {
		return ""
	}
	return c.nameOf(l, "cannot be a node's name")
}

func (c *checker) bindAddress(l leaf[string], own netip.Addr) netip.AddrPort {
	def := netip.AddrPortFrom(own, clusterPort)
	if l.or("") == "" {
		return def
	}
	if a, err := netip.ParseAddr(l.v); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a.Unmap(), clusterPort)
	}
	a, err := netip.ParseAddrPort(l.v)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		c.fail(l.at, `is not an address to listen on; want one such as "192.0.2.1" or "192.0.2.1:%d"`, clusterPort)
		return def
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// isMember reports whether s is shaped like a host, or a host and a port.
func isMember(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return dataplane.CheckUnicast(a.Unmap()) == nil
	}
	if host, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
		s = host
	}
	return s != "" && isHost(s)
}

func (c *checker) ttl(l leaf[string]) time.Duration {
	d := c.duration(l, defaultTTLs)
	if d < 2*time.Second || d > time.Hour {
		c.fail(l.at, `is out of range; want "2s" to "1h", such as "15s"`)
	}
	return d
}

// prefixOrNone is prefix for a key that may be "", none.
func (c *checker) prefixOrNone(l leaf[string]) netip.Prefix {
	if l.v == "" {
		return netip.Prefix{}
	}
	return c.prefix(l)
}

// clustered checks what a network has of the cluster: whether there is one, and which
// addresses are given out.
func (c *checker) clustered(raw *rawVXLAN, v *VXLAN, cfg *Config) {
	v.Cluster = raw.Cluster.or(false)
	if v.Cluster && !cfg.Cluster.On {
		c.fail(raw.Cluster.at, "is set, but the file has no [cluster]; want one, or cluster = false")
	}
	v.Subnet = c.prefixOrNone(raw.Subnet)
	v.Range = c.prefixOrNone(raw.Range)
	switch {
	case !v.Range.IsValid():
	case raw.Subnet.or("") == "":
		c.fail(raw.Range.at, "is a part of a subnet that is not set; want subnet set too")
	case v.Subnet.IsValid() && (v.Range.Bits() < v.Subnet.Bits() || !v.Subnet.Contains(v.Range.Addr())):
		c.fail(raw.Range.at, "is not within subnet on line %d; want a part of %s", raw.Subnet.at.line, v.Subnet)
	}
}
