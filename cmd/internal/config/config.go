package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"overtap/dataplane"
	"overtap/encap"
)

// Config is a configuration as Parse makes it: complete, with defaults filled
// in, and free of contradictions. A file without networks is valid: the daemon
// then runs idle.
type Config struct {
	Underlay Underlay
	Control  Control
	Engine   Engine
	Log      Log
	VXLAN    []VXLAN // in the order of the file
	IPIP     []IPIP
	Routes   []Route // of this host, without encapsulation
}

// Underlay is the network that carries the outer packets.
type Underlay struct {
	Address netip.Addr // outer source address; always valid
	Device  string     // bind the sockets to this device too; "" = any
}

// Control is where the daemon can be asked.
type Control struct {
	Socket  string // path of the unix socket
	Metrics string // host:port of the HTTP listener; "" = none
	// MetricsDefault: the file does not name a listener. Nobody counts on the
	// default one, so that a daemon that cannot have it works without.
	MetricsDefault bool
}

// Engine holds what is fixed for the engine's life.
type Engine struct {
	Workers     int  // 0 = one per CPU
	SourcePorts int  // size of the pool of UDP source ports
	Offload     bool // false: plain TAPs, every frame alone
	TunnelGSO   bool // false: no superframe leaves uncut
	Confine     bool // give up privileges that are not needed
}

// LogFormat is how log lines are written.
type LogFormat string

// The formats: slog's TextHandler and JSONHandler.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Log says what the daemon logs, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// VXLAN is one network.
type VXLAN struct {
	Name      string
	VNI       encap.VNI
	Port      uint16           // UDP, ours and the peers'
	TAP       string           // device name
	MAC       encap.MAC        // of the TAP; never zero
	MTU       encap.OverlayMTU // 0 = derived from the underlay's
	Bridge    string           // "" = none
	Addresses []netip.Prefix   // on the bridge, or on the TAP where there is none; host bits kept

	Learning   bool
	Ageing     time.Duration // whole seconds; 0 = never
	MaxEntries int           // bound of learned entries
	MaxPerPeer int           // of them behind one peer; 0 = a share
	MaxMoves   int           // of a MAC within MoveWindow; 0 = any number
	MoveWindow time.Duration // whole seconds
	Admit      dataplane.Admit
	Storm      dataplane.Storm // each way
	PeerStorm  dataplane.Storm // from each peer
	Group      netip.Addr      // invalid = per-peer copies

	TTL          uint8
	TOS          dataplane.TOS
	DF           bool
	VLANDrop     bool // drop inner 802.1Q-tagged frames
	ReservedDrop bool // drop datagrams with reserved bits set in the VXLAN header

	Probe time.Duration // between two probes to each listed peer; 0 = none

	Peers []dataplane.Peer        // from [[vxlan.peer]] alone
	FDB   []dataplane.StaticEntry // from [[vxlan.fdb]]
	Pins  []dataplane.StaticEntry // from the macs of [[vxlan.peer]]

	ClampMSS  bool                 // lower the segment size that TCP announces
	Suppress  bool                 // answer ARP and ND from Neighbors
	Neighbors []dataplane.Neighbor // from [[vxlan.neighbor]]

	Routes []Route  // by way of the bridge, or of the TAP where there is none
	Ports  []string // further devices for the bridge
	// PortsTake moves the addresses and routes of the ports to the bridge, and
	// back at the end.
	PortsTake bool

	mtuAt Error // where the mtu is set, or missing, for what only Desired can tell
}

// IPIP is one IP-in-IP tunnel. Its TUN bears its name.
type IPIP struct {
	Name      string
	MTU       encap.OverlayMTU // 0 = derived from the underlay's
	Addresses []netip.Prefix   // on the TUN; host bits kept; IPv4

	Admit       dataplane.Admit
	ClampMSS    bool // lower the segment size that TCP announces
	CheckSource bool // drop what does not come from the peer that its inner source routes to

	TTL uint8
	TOS dataplane.TOS
	DF  bool // on every outer packet; else as the inner one has it

	Routes []dataplane.TunnelRoute // each a route of this host too

	mtuAt Error // as in VXLAN
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
	c := &checker{file: name}
	if es := tooMuch(name, string(text)); es != nil {
		return nil, es
	}
	var values map[string]any
	if _, err := toml.Decode(string(text), &values); err != nil {
		return nil, Errors{syntaxError(name, string(text), err)}
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
	if err := c.errs.orNil(); err != nil {
		return nil, err
	}
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
	return Error{
		File:    name,
		Line:    line,
		Key:     shown(pe.LastKey),
		Value:   shown(strings.TrimSpace(lines[line-1])),
		Problem: printable(strings.TrimSuffix(pe.Message, ".")) + "; want valid TOML (https://toml.io)",
	}
}
