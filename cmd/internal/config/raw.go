package config

// The raw structs are the schema: every key the file may hold, with its TOML
// type. A tag `want` says what is accepted where the type alone does not. A tag
// `reload` says what a change needs where reloading the file is not enough: a new
// "network" or a new "daemon". It is for the reference alone: the engine and the host
// decide what they refuse.

// section is embedded in the struct of every table.
type section struct {
	at *node // the table; where it is missing, the place that it would have
	ok bool  // it is a table, or missing
}

func (s *section) place(n *node) { s.at, s.ok = n, true }

type rawConfig struct {
	section
	Underlay rawUnderlay `toml:"underlay" reload:"daemon"`
	Control  rawControl  `toml:"control" reload:"daemon"`
	Engine   rawEngine   `toml:"engine" reload:"daemon"`
	Offload  rawOffload  `toml:"offload" reload:"daemon"`
	Log      rawLog      `toml:"log" reload:"daemon"`
	Cluster  rawCluster  `toml:"cluster" reload:"daemon"`
	VXLAN    []rawVXLAN  `toml:"vxlan"`
	IPIP     []rawIPIP   `toml:"ipip"`
	Route    []rawRoute  `toml:"route"`
}

type rawUnderlay struct {
	section
	Address leaf[string] `toml:"address"`
	Device  leaf[string] `toml:"device"`
}

type rawControl struct {
	section
	Socket  leaf[string] `toml:"socket"`
	Metrics leaf[string] `toml:"metrics"`
}

type rawEngine struct {
	section
	Workers     leaf[int64] `toml:"workers"`
	SourcePorts leaf[int64] `toml:"source_ports"`
	Offload     leaf[bool]  `toml:"offload"`
	TunnelGSO   leaf[bool]  `toml:"tunnel_gso"`
	Confine     leaf[bool]  `toml:"confine"`
}

type rawOffload struct {
	section
	TAPGSO     leaf[string] `toml:"tap_gso"`
	TAPUSO     leaf[string] `toml:"tap_uso"`
	UDPSegment leaf[string] `toml:"udp_segment"`
	UDPGRO     leaf[string] `toml:"udp_gro"`
	JoinUDP    leaf[string] `toml:"join_udp"`
}

type rawLog struct {
	section
	Level  leaf[string] `toml:"level"`
	Format leaf[string] `toml:"format"`
}

type rawCluster struct {
	section
	Backend  leaf[string] `toml:"backend"`
	Node     leaf[string] `toml:"node"`
	Join     list         `toml:"join" want:"a list of addresses or DNS names, such as [\"192.0.2.2\"]"`
	Bind     leaf[string] `toml:"bind"`
	KeyFile  leaf[string] `toml:"key_file"`
	Insecure leaf[bool]   `toml:"insecure"`
	TTL      leaf[string] `toml:"ttl" want:"a string with a unit, such as \"15s\""`
}

type rawVXLAN struct {
	section
	Name               leaf[string]  `toml:"name" reload:"network"`
	VNI                leaf[int64]   `toml:"vni" reload:"network"`
	Port               leaf[int64]   `toml:"port" reload:"network"`
	TAP                leaf[string]  `toml:"tap" reload:"network"`
	MAC                leaf[string]  `toml:"mac" reload:"network"`
	MTU                leaf[int64]   `toml:"mtu"`
	Bridge             leaf[string]  `toml:"bridge" reload:"network"`
	Ports              list          `toml:"ports" reload:"network" want:"a list of interface names, such as [\"eth1\"]"`
	PortsTake          leaf[bool]    `toml:"ports_take_addresses" reload:"network"`
	Addresses          list          `toml:"addresses" want:"a list of addresses with prefix length, such as [\"198.51.100.1/24\"]"`
	Learning           leaf[bool]    `toml:"learning"`
	Ageing             leaf[string]  `toml:"ageing" reload:"network" want:"a string with a unit, such as \"300s\""`
	MaxEntries         leaf[int64]   `toml:"max_entries" reload:"network"`
	MaxPerPeer         leaf[int64]   `toml:"max_entries_per_peer"`
	MaxMoves           leaf[int64]   `toml:"max_moves"`
	MoveWindow         leaf[string]  `toml:"move_window" want:"a string with a unit, such as \"180s\""`
	StormBroadcast     leaf[int64]   `toml:"storm_broadcast"`
	StormUnknown       leaf[int64]   `toml:"storm_unknown_unicast"`
	StormMulticast     leaf[int64]   `toml:"storm_multicast"`
	PeerStormBroadcast leaf[int64]   `toml:"peer_storm_broadcast"`
	PeerStormMulticast leaf[int64]   `toml:"peer_storm_multicast"`
	Admit              union         `toml:"admit"`
	Suppress           leaf[bool]    `toml:"suppress"`
	Group              leaf[string]  `toml:"group" reload:"network"`
	TTL                leaf[int64]   `toml:"ttl"`
	TOS                union         `toml:"tos"`
	DF                 leaf[bool]    `toml:"df"`
	ClampMSS           leaf[bool]    `toml:"mss_clamp"`
	VLAN               leaf[string]  `toml:"vlan"`
	Reserved           leaf[string]  `toml:"reserved"`
	BridgeControl      leaf[string]  `toml:"bridge_control"`
	UDP6ZeroCSum       leaf[bool]    `toml:"udp6zerocsumrx"`
	Probe              leaf[string]  `toml:"probe" want:"a string with a unit, such as \"10s\""`
	Cluster            leaf[bool]    `toml:"cluster"`
	Subnet             leaf[string]  `toml:"subnet"`
	Range              leaf[string]  `toml:"range"`
	Peer               []rawPeer     `toml:"peer"`
	FDB                []rawFDB      `toml:"fdb"`
	Neighbor           []rawNeighbor `toml:"neighbor"`
	Route              []rawRoute    `toml:"route"`
}

type rawPeer struct {
	section
	Address      leaf[string] `toml:"address"`
	Flood        leaf[bool]   `toml:"flood"`
	UDP6ZeroCSum leaf[bool]   `toml:"udp6zerocsumrx"`
	MACs         list         `toml:"macs" want:"a list of hardware addresses, such as [\"02:42:0a:00:01:04\"]"`
}

type rawFDB struct {
	section
	MAC  leaf[string] `toml:"mac"`
	Peer leaf[string] `toml:"peer"`
}

type rawNeighbor struct {
	section
	Address leaf[string] `toml:"address"`
	MAC     leaf[string] `toml:"mac"`
}

type rawIPIP struct {
	section
	Name      leaf[string]   `toml:"name" reload:"network"`
	Addresses list           `toml:"addresses" want:"a list of addresses with prefix length, such as [\"198.51.100.1/30\"]"`
	MTU       leaf[int64]    `toml:"mtu"`
	Admit     union          `toml:"admit"`
	Check     leaf[bool]     `toml:"check_source"`
	TTL       leaf[int64]    `toml:"ttl"`
	TOS       union          `toml:"tos"`
	DF        leaf[bool]     `toml:"df"`
	ClampMSS  leaf[bool]     `toml:"mss_clamp"`
	Route     []rawIPIPRoute `toml:"route"`
}

type rawIPIPRoute struct {
	section
	Prefix leaf[string] `toml:"prefix"`
	Peer   leaf[string] `toml:"peer"`
}

type rawRoute struct {
	section
	Prefix leaf[string] `toml:"prefix"`
	Via    leaf[string] `toml:"via"`
}

// binder is a key whose value is not a table.
type binder interface {
	// bind takes the value of n, or reports to c that it is not what is wanted.
	bind(c *checker, n *node, want string)
}

// leaf is a key of one scalar type. When the file does not set it, at is nil;
// when it has another type, ok is false and the mistake is reported.
type leaf[T string | int64 | bool] struct {
	at *node
	ok bool
	v  T
}

func (l *leaf[T]) bind(c *checker, n *node, want string) {
	l.at = n
	if l.v, l.ok = n.value.(T); l.ok {
		return
	}
	if want == "" {
		switch any(l.v).(type) {
		case string:
			want = "a string"
		case int64:
			want = "an integer"
		case bool:
			want = "true or false"
		}
	}
	c.fail(n, "is %s; want %s", n.is(), want)
}

// or returns the value, or def when there is none.
func (l leaf[T]) or(def T) T {
	if l.ok {
		return l.v
	}
	return def
}

// list is a key whose value is an array of strings.
type list struct {
	at *node
	v  []leaf[string]
}

func (l *list) bind(c *checker, n *node, want string) {
	l.at = n
	if n.kind != arrayKind {
		c.fail(n, "is %s; want %s", n.is(), want)
		return
	}
	l.v = make([]leaf[string], len(n.items))
	for i, e := range n.items {
		l.v[i].bind(c, e, "")
	}
}

// union is a key that takes values of several types, which its section
// distinguishes.
type union struct{ at *node }

func (u *union) bind(_ *checker, n *node, _ string) { u.at = n }
