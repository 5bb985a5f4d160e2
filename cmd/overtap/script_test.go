package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/netnstest"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// inNetns runs the tests in a network namespace of their own.
type inNetns struct{ *testing.M }

func (m inNetns) Run() int { return netnstest.Main(m.M) }

func TestMain(m *testing.M) {
	testscript.Main(inNetns{m}, map[string]func(){"overtap": main})
}

// TestScripts runs testdata/script/*.txtar. Each finds a stand-in for the
// daemon at $SOCKET, filled by fakeDaemon, one that probes peers at $PROBING, and
// one without any network at $EMPTY.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, d := range map[string]control.Daemon{
				"SOCKET": &fakeDaemon{full: true}, "PROBING": &fakeDaemon{full: true, probe: true}, "EMPTY": &fakeDaemon{},
			} {
				path := filepath.Join(env.WorkDir, name)
				l, err := control.Listen(path)
				if err != nil {
					return err
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- control.Serve(ctx, l, d, slog.New(slog.DiscardHandler)) }()
				env.Defer(func() {
					cancel()
					if err := <-done; err != nil {
						t.Error(err)
					}
				})
				env.Setenv(name, path)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit2": exit2, "expand": expand, "await": await, "link": link, "signal": sendSignal,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			if os.Geteuid() != 0 && os.Getenv("REQUIRE_ROOT") == "1" {
				return false, fmt.Errorf("this test needs root")
			}
			return os.Geteuid() == 0, nil
		},
	})
}

// exit2 runs a command that must end with the exit code of a usage error and
// print text that matches a pattern to stderr, and nothing to stdout:
//
//	exit2 PATTERN COMMAND ARGUMENT...
func exit2(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit2 pattern command argument...")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
		ts.Fatalf("ended with %v; want exit code %d", err, exitUsage)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout: %s", out)
	}
	if ok, err := regexp.MatchString(args[0], ts.ReadFile("stderr")); err != nil || !ok {
		ts.Fatalf("stderr lacks %s: %v", args[0], err)
	}
}

// expand replaces the variables in a file: expand FILE
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand file")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// await repeats a command until it succeeds: await COMMAND ARGUMENT...
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await command argument...")
	}
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); err == nil {
			return
		}
	}
	ts.Fatalf("%s: %v", args[0], err)
}

// link checks that a device is there, or with ! that it is not: link NAME
func link(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: link name")
	}
	if _, err := net.InterfaceByName(args[0]); (err == nil) == neg {
		ts.Fatalf("link %s: %v", args[0], err)
	}
}

// sendSignal sends a signal to the background commands: signal TERM|HUP|INT
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	sig := map[string]os.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "INT": syscall.SIGINT}
	if neg || len(args) != 1 || sig[args[0]] == nil {
		ts.Fatalf("usage: signal TERM|HUP|INT")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(sig[args[0]]))
	}
}

// fakeDaemon answers with one of everything that a verb prints.
type fakeDaemon struct {
	full  bool
	probe bool // the networks probe
	added []control.Entry
	// attached is the last attachment.
	attached []attach.Attachment
}

var (
	peer2 = netip.MustParseAddr("192.0.2.2")
	peer3 = netip.MustParseAddr("2001:db8::3")
)

const (
	staticMAC  = encap.MAC(0x02420a000104)
	learnedMAC = encap.MAC(0x02420a000105)
)

func (f *fakeDaemon) Status() control.Status {
	s := control.Status{
		Version: "v1.2.3", PID: 4242, Ready: true, Uptime: 3723, Config: "/etc/overtap.toml",
		Underlay: control.Underlay{Address: netip.MustParseAddr("192.0.2.1"), Device: "eth0", MTU: 1500},
		Workers:  2, SourcePorts: []uint16{49152, 49153},
		Uplink: netio.UplinkInfo{Active: true, Device: "otup0", Sent: 7},
		Offloads: []dataplane.OffloadInfo{
			{Name: "tap_gso", State: dataplane.OffloadOn}, {Name: "tap_uso", State: dataplane.OffloadOn},
			{Name: "udp_segment", State: dataplane.OffloadOn}, {Name: "udp_gro", State: dataplane.OffloadOn},
			{Name: "join_udp", State: dataplane.OffloadOff, Reason: "by configuration"},
		},
	}
	if !f.full {
		s.ChecksumErrors, s.Underlay.Address = 8, netip.MustParseAddr("2001:db8::1")
		s.Offloads[1] = dataplane.OffloadInfo{Name: "tap_uso", State: dataplane.OffloadUnsupported, Reason: "the kernel does not grant it to vx-blue"}
		s.Offloads[2] = dataplane.OffloadInfo{Name: "udp_segment", State: dataplane.OffloadSuspended,
			Reason: "the route to 192.0.2.2 refused it: invalid argument", Until: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)}
		s.Ready = false
		s.SegmentationRefused = true
		s.Problems = []string{"the underlay's device eth0 is down: set it up"}
	}
	if f.full {
		s.Networks = []control.NetworkStatus{{
			NetworkInfo: dataplane.NetworkInfo{Network: "blue", Kind: dataplane.KindVXLAN, VNI: 100, Port: 4789, Device: "vx-blue",
				MAC: 0x0242c0000201, MTU: 1450, Queues: 2, Offloads: []string{"csum", "tso4"}},
			Bridge: "br-blue", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")},
			Entries: 2, EntriesLearned: 1, EntriesMax: 65536,
		}, {
			NetworkInfo: dataplane.NetworkInfo{Network: "red", Kind: dataplane.KindVXLAN, VNI: 101, Port: 8472, Device: "red", MTU: 1450, Lost: true},
		}, {
			NetworkInfo: dataplane.NetworkInfo{Network: "green", Kind: dataplane.KindIPIP, Device: "green", MTU: 1480, Queues: 2, Offloads: []string{"csum"}},
			Addresses:   []netip.Prefix{netip.MustParsePrefix("172.245.1.1/30")}, Entries: 3,
		}}
		s.Warnings = []string{"the kernel has IP-in-IP too (tunl0)"}
		s.Peers = []control.PeerStatus{{Network: "blue", Peer: peer2, State: dataplane.PeerHeard},
			{Network: "red", Peer: peer3, State: dataplane.PeerSilent, LastHeard: time.Now().Add(-time.Hour), PathMTU: 1400},
			{Network: "green", Peer: peer2, State: dataplane.PeerHeard, PathMTU: 1500}}
		s.Attachments = f.attached
	}
	if f.probe {
		for i, p := range f.Stats().Peers {
			s.Peers[i].Probe, s.Peers[i].State, s.Peers[i].LastHeard = p.Probe, p.State, p.LastHeard
		}
	}
	return s
}

func (f *fakeDaemon) Stats() dataplane.Stats {
	if !f.full {
		return dataplane.Stats{}
	}
	s := dataplane.Stats{
		Networks: []dataplane.NetworkStats{
			{Network: "blue", Kind: dataplane.KindVXLAN, VNI: 100, Port: 4789, Traffic: dataplane.Traffic{TxPackets: 11, TxBytes: 1100, RxPackets: 22, RxBytes: 2200},
				Flooded: 3, Suppressed: 4, Entries: 2, EntriesLearned: 1, EntriesMax: 65536},
			{Network: "red", Kind: dataplane.KindVXLAN, VNI: 101, Port: 8472, EntriesMax: 10},
			{Network: "green", Kind: dataplane.KindIPIP, Traffic: dataplane.Traffic{TxPackets: 4, TxBytes: 400}, Entries: 3},
		},
		Peers: []dataplane.PeerStats{
			{Network: "blue", Peer: peer2, Flood: true, State: dataplane.PeerSilent, LastHeard: time.Now().Add(-time.Hour), Traffic: dataplane.Traffic{TxPackets: 11, TxBytes: 1100}},
			{Network: "red", Peer: peer3, State: dataplane.PeerHeard, LastHeard: time.Now().Add(-5 * time.Second), Learned: true, PathMTU: 1400, Traffic: dataplane.Traffic{RxPackets: 5, RxBytes: 500}},
		},
		Drops: []dataplane.DropStats{
			{Direction: dataplane.Inbound, Reason: dataplane.DropVXLANVNINotFound, Count: 7, LastPeer: peer3, Last: time.Now().Add(-time.Hour)},
			{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropTooBig, Count: 9},
		},
		Wire: []dataplane.ConnStats{{Port: 4789, SocketDropped: 6}, {Port: 8472}},

		ChecksumErrors: 8,
	}
	if f.probe {
		s.Peers[0].State, s.Peers[0].LastHeard = dataplane.PeerAlive, time.Now()
		s.Peers[0].Probe = &dataplane.Probe{Alive: true, Answered: true, RTT: 0.00123456, VerifiedMTU: 1500, FullMTU: 1500}
		s.Peers[1].State, s.Peers[1].LastHeard = dataplane.PeerNever, time.Time{}
		s.Peers[1].Probe = &dataplane.Probe{UnansweredSince: time.Now().Add(-time.Hour), FullMTU: 1500}
		s.Peers = append(s.Peers,
			dataplane.PeerStats{Network: "red", Peer: peer2, State: dataplane.PeerLost, LastHeard: time.Now().Add(-time.Hour), Probe: &dataplane.Probe{
				Answered: true, UnansweredSince: time.Now().Add(-time.Hour), FullMTU: 1500}})
	}
	return s
}

func (f *fakeDaemon) FDB(network string) ([]dataplane.FDBEntry, error) {
	if !f.full {
		return nil, nil
	}
	all := []dataplane.FDBEntry{
		{Network: "blue", VNI: 100, MAC: staticMAC, Peer: peer2, Port: 4789, Origin: "static"},
		{Network: "blue", VNI: 100, MAC: learnedMAC, Peer: peer2, Port: 4789, Origin: "learned", Age: 12, Frozen: true},
		{Network: "red", VNI: 101, MAC: learnedMAC, Peer: peer3, Port: 8472, Origin: "learned"},
	}
	for _, e := range f.added {
		all = append(all, dataplane.FDBEntry{Network: e.Network, MAC: e.MAC, Peer: e.Peer, Origin: "static"})
	}
	switch network {
	case "":
		return all, nil
	case "blue", "red":
		return slices.DeleteFunc(all, func(e dataplane.FDBEntry) bool { return e.Network != network }), nil
	}
	return nil, fmt.Errorf("there is no network %q: name one of blue, red", network)
}

func (f *fakeDaemon) FDBPage(q control.FDBQuery) (control.FDBPage, error) {
	return q.Page(func(network string, each func(*dataplane.FDBEntry)) error {
		all, err := f.FDB(network)
		for i := range all {
			each(&all[i])
		}
		return err
	})
}

func (f *fakeDaemon) Neighbors(network string) ([]dataplane.NeighborEntry, error) {
	if !f.full {
		return nil, nil
	}
	if network == "green" {
		return nil, fmt.Errorf("there is no network %q: name one of blue, red", network)
	}
	return []dataplane.NeighborEntry{
		{Network: "blue", VNI: 100, Address: netip.MustParseAddr("10.0.1.4"), MAC: staticMAC, Origin: "static"},
		{Network: "blue", VNI: 100, Address: netip.MustParseAddr("2001:db8:1::4"), MAC: staticMAC, Origin: "static"},
	}, nil
}

func (f *fakeDaemon) AddFDB(e control.Entry) (control.Added, error) {
	f.added = append(f.added, e)
	if e.MAC == learnedMAC {
		return control.Added{Network: e.Network, Peer: peer3, Origin: "learned"}, nil
	}
	return control.Added{Network: e.Network, Admits: true}, nil
}

func (f *fakeDaemon) DeleteFDB(network string, mac encap.MAC) (control.Deleted, error) {
	if mac == staticMAC {
		return control.Deleted{}, fmt.Errorf("the entry %s belongs to the configuration: change it there", mac)
	}
	f.added = slices.DeleteFunc(f.added, func(e control.Entry) bool { return e.MAC == mac })
	return control.Deleted{Network: network, Peer: peer2, Origin: "static"}, nil
}

// Attach knows one network and makes whatever is asked of it there.
func (f *fakeDaemon) Attach(_ context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	if r.Network != "blue" {
		return attach.Made{}, fmt.Errorf("there is no network %q: name one of blue", r.Network)
	}
	if ns == nil {
		return attach.Made{}, errors.New("no namespace came")
	}
	f.attached = []attach.Attachment{{
		Network: r.Network, Target: r.Target, IfName: r.IfName, MAC: r.MAC, MTU: 1450,
		Addresses: r.Addresses, Veth: "otveth01234567", Bridge: "br-blue",
	}}
	return attach.Made{Attachment: f.attached[0], Gateways: r.Gateways}, nil
}

func (f *fakeDaemon) Detach(_ *os.File, s attach.Selector) (attach.Attachment, error) {
	if len(f.attached) == 0 || s.Target != f.attached[0].Target {
		return attach.Attachment{}, fmt.Errorf("detaching %s from network %s: %w: see `overtap status`", s.Target, s.Network, attach.ErrNotAttached)
	}
	gone := f.attached[0]
	f.attached = nil
	return gone, nil
}

func (f *fakeDaemon) FlushFDB(m control.Match) (int, error) {
	if m.Network == "red" {
		return 0, nil
	}
	if m.Network == "blue" && m.MAC == learnedMAC && m.Peer == peer2 {
		return 1, nil
	}
	return 2, nil
}

func (f *fakeDaemon) Reload(dryRun bool) (control.Reloaded, error) {
	if f.full {
		return control.Reloaded{Added: []string{"red"}, Removed: []string{"old"}, Changed: []string{"blue"}, Routes: true, DryRun: dryRun,
			Details: []config.Change{
				{Network: "blue", Key: "probe", Line: 9, From: `"5s"`, To: `"10s"`},
				{Network: "blue", Key: "peer[192.0.2.3]", Line: 12, To: `{address = "192.0.2.3"}`},
				{Network: "red", Line: 20, To: "{name = \"red\"}"},
				{Network: "old", From: "{name = \"old\"}"},
				{Key: "route[198.18.0.0/15]", From: `{prefix = "198.18.0.0/15"}`},
			}, MoreDetails: 3}, nil
	}
	return control.Reloaded{}, errors.New("/etc/overtap.toml:3: nonsense: unknown key")
}

// Resolve knows one address of each kind.
func (f *fakeDaemon) Cluster() (control.Cluster, error) {
	if !f.full {
		return control.Cluster{Backend: "gossip", Node: "host1"}, nil
	}
	vtep := netip.MustParseAddr("192.0.2.2")
	endpoint := control.ClusterEndpoint{
		Network: "blue", VNI: 100, Port: 4789, MAC: learnedMAC, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.2")},
		Name: "web", Node: "host2", VTEP: vtep, Sequence: 2, Holds: true,
	}
	outdated := endpoint
	outdated.Network, outdated.Node, outdated.Sequence, outdated.Holds = "", "host1", 1, false
	return control.Cluster{
		Backend: "gossip", Node: "host1", Problems: []string{"cluster: a problem"}, Refused: 3,
		Members: []control.ClusterMember{
			{Node: "host1", VTEP: netip.MustParseAddr("192.0.2.1"), Version: "v1", Self: true, Alive: true, Networks: 1, Endpoints: 1},
			{Node: "host2", VTEP: vtep, Version: "v1", Networks: 1, Endpoints: 1, Synced: time.Now().Add(-time.Minute)},
		},
		Endpoints: []control.ClusterEndpoint{endpoint, outdated},
		Addresses: []control.ClusterAddress{{
			Network: "blue", Range: netip.MustParsePrefix("198.51.100.0/26"), Address: netip.MustParseAddr("198.51.100.9"), Target: "db", MAC: staticMAC,
		}},
	}, nil
}

func (f *fakeDaemon) Resolve(network string, a netip.Addr) (control.Resolved, error) {
	r := control.Resolved{Network: network, Kind: dataplane.KindVXLAN, Source: netip.MustParseAddr("198.51.100.1"), SourceMAC: 0x02420a000102}
	switch {
	case network == "bare": // neither host nor container has an address there
		r.Network, r.Source = "blue", netip.Addr{}
	case network != "blue":
		return r, fmt.Errorf("there is no network %q: name one of blue, red", network)
	}
	if a.Is6() {
		r.Source = netip.MustParseAddr("2001:db8:1::1")
	}
	switch a.String() {
	case "198.51.100.2", "2001:db8:1::2":
		r.MAC, r.Known = staticMAC, "a neighbour of the configuration"
	case "10.9.0.1":
		r.Via = netip.MustParseAddr("198.51.100.9")
	}
	return r, nil
}

// Explain sends frames of containers, and drops those of peers.
func (f *fakeDaemon) Explain(p dataplane.Query) (dataplane.Explanation, error) {
	if p.Network != "blue" {
		return dataplane.Explanation{}, fmt.Errorf("there is no network %q: name one of blue, red", p.Network)
	}
	x := dataplane.Explanation{Network: "blue", Kind: dataplane.KindVXLAN}
	if p.From.IsValid() {
		x.Direction, x.Verdict, x.Reason = dataplane.Inbound, dataplane.OutcomeDropped, dataplane.DropPeerNotAdmitted
		x.Steps = []dataplane.Step{
			{Name: "vni", Verdict: "pass", Detail: fmt.Sprintf("VNI %d on port %d", *p.VNI, p.Port)},
			{Name: "admission", Verdict: "drop", Reason: x.Reason, Detail: p.From.String() + " is no listed peer"},
		}
		return x, nil
	}
	x.Verdict = dataplane.OutcomeSent
	x.Steps = []dataplane.Step{
		{Name: "frame", Verdict: "pass", Detail: fmt.Sprintf("%x, %d bytes, segments of %d", p.Frame, p.Size, p.SegSize)},
		{Name: "source", Verdict: "note", Detail: "it has moved here"},
		{Name: "icmp", Verdict: "note", Detail: "its sender is notified: Fragmentation Needed, at most 1350 bytes"},
	}
	x.Notified = "Fragmentation Needed, at most 1350 bytes"
	x.Copies = []dataplane.Copy{
		{Peer: peer2, Port: 4789, SourcePort: 49153, Frames: 1, Length: 1550, Overhead: 50, PathMTU: 1400, DF: true, TTL: 64, Way: "sendmmsg", Reason: dataplane.DropTooBig},
		{Peer: peer3, Port: 4789, SourcePort: 49153, Frames: 1, Length: 1570, Overhead: 70, PathMTU: 9000, DF: true, TTL: 64, Way: "sendmmsg"},
	}
	return x, nil
}

// HandOver refuses.
func (f *fakeDaemon) HandOver(s *control.Handover) {
	s.Fail(errors.New("a daemon of the tests stays"))
}

// WatchFDB reports two changes and a loss, and then waits for the end.
func (f *fakeDaemon) WatchFDB(ctx context.Context, network string, emit func([]dataplane.FDBChange, uint64) error) error {
	if network == "green" {
		return errors.New(`there is no network "green": name one of blue, red`)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.Local)
	err := emit([]dataplane.FDBChange{
		{Time: at, Network: "blue", Event: "learn", MAC: learnedMAC, To: peer2, Origin: "learned"},
		{Time: at, Network: "blue", Event: "move", MAC: learnedMAC, From: peer2, To: netip.MustParseAddr("2001:db8::3"), Origin: "learned"},
	}, 7)
	if err != nil || !f.full {
		return err
	}
	<-ctx.Done()
	return nil
}

// Capture emits an ARP request on the tx path and a received frame of an unknown VNI,
// reports a loss, and then waits for the end.
func (f *fakeDaemon) Capture(ctx context.Context, s dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error {
	if s.Network == "green" {
		return errors.New(`there is no network "green": name one of blue, red`)
	}
	if err := emit(nil, 0); err != nil {
		return err
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901e3, time.Local)
	arp := make([]byte, encap.EthernetHeaderLen+encap.ARPLen)
	encap.BroadcastMAC.Put(arp)
	learnedMAC.Put(arp[encap.MACLen:])
	arp[12], arp[13] = 8, 6
	encap.PutARP(arp[encap.EthernetHeaderLen:], encap.ARPRequest, learnedMAC, [4]byte{10, 0, 1, 5}, 0, [4]byte{10, 0, 1, 4})
	outer := []byte{0x45, 0, 0, 78, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0xc0, 0, 0x12, 0xb5, 0, 58, 0, 0, 8, 0, 0, 0, 0, 0, 100, 0}
	blue := dataplane.Record{Time: at, Network: "blue", Kind: dataplane.KindVXLAN, VNI: 100, Frame: arp, Length: len(arp)}
	in, out, lost := blue, blue, blue
	out.Point, out.Peer, out.Outer = dataplane.PointWireOut, peer2, outer
	lost.Point, lost.Direction, lost.Drop, lost.Peer, lost.Network = dataplane.PointDropped, dataplane.Inbound, dataplane.DropVXLANVNINotFound, peer3, ""
	var all []dataplane.Record
	for _, r := range []dataplane.Record{in, out, lost} {
		if s.Points.Has(r.Point) && (s.Network == "" || r.Network == s.Network) {
			all = append(all, r)
		}
	}
	if err := emit(all, 7); err != nil || !f.full {
		return err
	}
	<-ctx.Done()
	return nil
}
