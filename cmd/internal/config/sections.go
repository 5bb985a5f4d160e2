package config

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"overtap/dataplane"
	"overtap/dataplane/netio"
)

// Defaults outside of networks.
const (
	defaultSocket      = "/run/overtap/control.sock"
	defaultMetrics     = "127.0.0.1:9472"
	defaultSourcePorts = 32
)

const (
	// maxWorkers is MAX_TAP_QUEUES, the queues a TAP can have
	// (Linux drivers/net/tun.c): each worker owns one.
	maxWorkers     = 256
	maxSourcePorts = 256
	// maxSocketPath is what sockaddr_un.sun_path holds, less the closing zero
	// (unix(7)).
	maxSocketPath = 107
)

// config checks the whole file.
func (c *checker) config(raw *rawConfig) *Config {
	cfg := &Config{
		Underlay: c.underlay(&raw.Underlay),
		Control:  c.control(&raw.Control),
		Engine:   c.engine(&raw.Engine),
		Offload:  c.offload(&raw.Offload),
		Log:      c.log(&raw.Log),
	}
	cfg.Cluster = c.cluster(raw, cfg.Underlay.Address)
	names := newNames(cfg.Underlay.Device, raw.Underlay.Device.at)
	for i := range raw.VXLAN {
		cfg.VXLAN = append(cfg.VXLAN, c.vxlan(&raw.VXLAN[i], cfg, names))
	}
	for i := range raw.IPIP {
		cfg.IPIP = append(cfg.IPIP, c.ipip(&raw.IPIP[i], cfg, names))
	}
	c.refused(raw, cfg)
	c.inward(raw, cfg)
	c.bridges(raw, names)
	c.portDevices(raw, names)
	cfg.Routes = c.hostRoutes(raw.Route, cfg.Underlay.Address, names)
	return cfg
}

func (c *checker) underlay(raw *rawUnderlay) Underlay {
	c.required(raw.section, raw.Address.at, "address", "the outer source address, one of this host's")
	return Underlay{
		Address: c.checked(raw.Address, func(a netip.Addr) error { return dataplane.CheckPeer(a, netip.Addr{}) }),
		Device:  c.ifnameOrNone(raw.Device),
	}
}

func (c *checker) control(raw *rawControl) Control {
	return Control{
		Socket:  c.socket(raw.Socket),
		Metrics: c.listener(raw.Metrics),

		MetricsDefault: raw.Metrics.at == nil,
	}
}

// socket checks the path of the control socket.
func (c *checker) socket(l leaf[string]) string {
	path := l.or(defaultSocket)
	switch {
	case !filepath.IsAbs(path) || strings.HasSuffix(path, "/"):
		c.fail(l.at, "is not the absolute path of a file; want one such as %q", defaultSocket)
	case strings.ContainsRune(path, 0):
		c.fail(l.at, "holds a zero byte; want a path such as %q", defaultSocket)
	case len(path) > maxSocketPath:
		c.fail(l.at, "has %d bytes; want at most %d, as a unix socket's path has (unix(7))", len(path), maxSocketPath)
	}
	return path
}

// listener checks the host and port of a TCP listener; "" is none.
func (c *checker) listener(l leaf[string]) string {
	s := l.or(defaultMetrics)
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		c.fail(l.at, `is not host:port; want one such as %q, or "" for none`, defaultMetrics)
	case portErr != nil || n == 0:
		c.fail(l.at, "has no port that can be listened on; want 1 to 65535")
	case !isHost(host):
		c.fail(l.at, "has no host that can be listened on; want an IP address, a host name, or nothing for all addresses")
	}
	return s
}

// isHost reports whether s is an IP address, empty, or shaped like a host name
// (RFC 1123 section 2.1).
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || s == "" {
		return true
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	if strings.Trim(last, "0123456789") == "" {
		return false // numbers at the end: an IPv4 address gone wrong
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isBare(r) && r != '.' })
}

func (c *checker) engine(raw *rawEngine) Engine {
	return Engine{
		Workers:     number(c, raw.Workers, 0, dataplane.Range{Max: maxWorkers}),
		SourcePorts: number(c, raw.SourcePorts, defaultSourcePorts, dataplane.Range{Min: 1, Max: maxSourcePorts}),
		Offload:     raw.Offload.or(true),
		TunnelGSO:   raw.TunnelGSO.or(true),
		Confine:     raw.Confine.or(true),
	}
}

func (c *checker) offload(raw *rawOffload) netio.Offloads {
	off := func(l leaf[string]) bool { return c.oneOf(l, "auto", "auto", "off") == "off" }
	return netio.Offloads{
		NoTAPGSO: off(raw.TAPGSO), NoTAPUSO: off(raw.TAPUSO),
		NoUDPSegment: off(raw.UDPSegment), NoUDPGRO: off(raw.UDPGRO), NoJoinUDP: off(raw.JoinUDP),
	}
}

func (c *checker) log(raw *rawLog) Log {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	return Log{
		Level:  levels[c.oneOf(raw.Level, "info", "debug", "info", "warn", "error")],
		Format: LogFormat(c.oneOf(raw.Format, string(LogText), string(LogText), string(LogJSON))),
	}
}
