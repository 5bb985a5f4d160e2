package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"overtap/cmd/internal/printable"
	"overtap/dataplane"
	"overtap/dataplane/netio"
)

// Config is a configuration as Parse makes it: complete, with defaults filled
// in, and free of contradictions. A file without networks is valid: the daemon
// then runs idle.
type Config struct {
	Underlay Underlay
	Control  Control
	Engine   Engine
	Offload  netio.Offloads // as [offload] has them; Offloads returns those in effect
	Log      Log
	Cluster  Cluster
	VXLAN    []VXLAN // in the order of the file
	IPIP     []IPIP
	Routes   []Route // of this host, without encapsulation

	// Warnings are what is accepted and probably not meant, in the order of the
	// file's lines.
	Warnings Errors

	root *node // the file, for Changes
}

// Underlay is the network that carries the outer packets.
type Underlay struct {
	Address netip.Addr // outer source address; always valid
	Device  string     // bind the sockets to this device too; "" = any
}

// Control says where the daemon listens.
type Control struct {
	Socket  string // path of the unix socket
	Metrics string // host:port of the HTTP listener; "" = none
	// MetricsDefault: the file does not name a listener. A daemon that cannot have
	// the default one works without.
	MetricsDefault bool
}

// Engine has the settings that are fixed while the engine runs.
type Engine struct {
	Workers     int  // 0 = one per CPU
	SourcePorts int  // size of the pool of UDP source ports
	Offload     bool // false: plain TAPs, and none of [offload]
	TunnelGSO   bool // false: every GSO packet of a tunnel is segmented before it leaves
	Confine     bool // give up privileges that are not needed
}

// Offloads are those not to be used: all of them where engine.offload is false.
func (c *Config) Offloads() netio.Offloads {
	if c.Engine.Offload {
		return c.Offload
	}
	return netio.Offloads{NoTAPGSO: true, NoTAPUSO: true, NoUDPSegment: true, NoUDPGRO: true, NoJoinUDP: true}
}

// LogFormat is how log lines are written.
type LogFormat string

// The formats: slog's TextHandler and JSONHandler.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Log is what the daemon logs, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// VXLAN is one network: what the engine makes of it, and what this host looks
// like around its TAP.
type VXLAN struct {
	dataplane.Network // MTU 0 = derived from the underlay's

	Bridge    string         // "" = none
	Ports     []string       // further devices for the bridge
	PortsTake bool           // move the addresses and routes of Ports to the bridge, and back at the end
	Addresses []netip.Prefix // on the bridge, or on the TAP where there is none; host bits kept
	Routes    []Route        // by way of the same

	Shared

	mtuAt Error // where the mtu is set, or missing, for what only Desired can find
}

// Shared is what a network has in common with those of other hosts.
type Shared struct {
	Cluster bool         // peers and entries come from the cluster too
	Subnet  netip.Prefix // of which containers get addresses; invalid = none
	Range   netip.Prefix // of it, this host's own part; invalid = none
}

// IPIP is one IP-in-IP tunnel. Its TUN has its name.
type IPIP struct {
	dataplane.Tunnel // MTU 0 = derived; each of its Routes is a route of this host too

	Addresses []netip.Prefix // on the TUN; host bits kept; IPv4

	mtuAt Error // as in VXLAN
}

// Network is the VXLAN network of that name, an empty one where there is none.
func (c *Config) Network(name string) *VXLAN {
	for i := range c.VXLAN {
		if c.VXLAN[i].Name == name {
			return &c.VXLAN[i]
		}
	}
	return new(VXLAN)
}

// Tunnel is the IP-in-IP tunnel of that name, an empty one where there is none.
func (c *Config) Tunnel(name string) *IPIP {
	for i := range c.IPIP {
		if c.IPIP[i].Name == name {
			return &c.IPIP[i]
		}
	}
	return new(IPIP)
}

// Load reads and checks the configuration file at path, which must be a regular
// one. The mistakes of its text are Errors.
func Load(path string) (*Config, error) {
	text, err := readFile(path)
	if errors.As(err, new(Errors)) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, text)
}

// Parse checks a configuration; name stands for the file in errors. The mistakes
// are Errors: all of them, unless the text is not TOML, or too long or too deep
// to be read, when only the first place is known. The text is not kept.
func Parse(name string, text []byte) (*Config, error) {
	c := &checker{file: name, failed: make(map[string]bool)}
	if es := tooMuch(name, string(text)); es != nil {
		return nil, es
	}
	if utf16(text) {
		return nil, Errors{{File: name, Line: 1, Problem: "is UTF-16; want TOML in UTF-8: save it so, or convert it with `iconv -f UTF-16 -t UTF-8`"}}
	}
	var values map[string]any
	_, err := toml.Decode(string(text), &values)
	var wrong Error
	if err != nil {
		wrong = syntaxError(name, string(text), err)
	}
	// A network's table above the network makes the network's own header an error, or
	// the network a table. What follows an error may be read wrongly.
	if es := orphans(name, string(text)); len(es) > 0 && (err == nil || es[0].Line <= wrong.Line) {
		return nil, es
	}
	if err != nil {
		return nil, Errors{wrong}
	}
	if !utf8.Valid(text) {
		return nil, Errors{{File: name, Line: 1, Problem: "is not UTF-8; want TOML in UTF-8"}}
	}
	root, again := scan(string(text))
	root.fill(values)
	for _, n := range again {
		c.fail(n, "is set already, on line %d; want each key only once", n.parent.table[n.key].line)
	}

	var raw rawConfig
	c.bindTable(root, reflect.ValueOf(&raw).Elem())
	cfg := c.config(&raw)
	cfg.root = root
	if err := c.errs.orNil(); err != nil {
		return nil, err
	}
	c.doubts(&raw, cfg)
	_ = c.warnings.orNil() // sorts them
	cfg.Warnings = c.warnings
	return cfg, nil
}

// syntaxError locates what the TOML parser found; its value is the line.
func syntaxError(name, text string, err error) Error {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		return Error{File: name, Line: 1, Problem: fmt.Sprintf("reading TOML: %v", err)}
	}
	lines := strings.Split(text, "\n")
	line := max(1, min(pe.Position.Line, len(lines)))
	if fixed := quoted(lines[line-1]); fixed != "" {
		return Error{File: name, Line: line, Key: shown(pe.LastKey), Value: shown(strings.TrimSpace(lines[line-1])),
			Problem: "is not quoted; want " + shown(fixed)}
	}
	return Error{
		File:    name,
		Line:    line,
		Key:     shown(pe.LastKey),
		Value:   shown(strings.TrimSpace(lines[line-1])),
		Problem: printable.String(strings.TrimSuffix(pe.Message, ".")) + "; want valid TOML (https://toml.io)",
	}
}
