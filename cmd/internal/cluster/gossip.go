package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"overtap/cmd/internal/repeat"
)

// DefaultPort is where members gossip, UDP and TCP.
const DefaultPort = 7946

// Options say how to gossip.
type Options struct {
	Node    Node
	Bind    netip.AddrPort
	Join    []string // members to start from: address or DNS name, with or without port
	KeyFile string   // "" = nothing is encrypted
	TTL     time.Duration
	Log     *slog.Logger
	Limit   *repeat.Limiter // of lines that may come again and again
	// Changed is called, by any goroutine, after View changed.
	Changed func()
}

const (
	joinEvery  = time.Second      // at first
	joinAtMost = 10 * time.Second // apart, after failures
	// syncTick is how often it is looked whether records are to be fetched, if nothing
	// wakes the look before.
	syncTick = 500 * time.Millisecond
	// fetchWait is after how long a record that did not come is asked for again.
	fetchWait = 2 * time.Second
	// fetches bounds the records that are asked for or sent at the same time.
	fetches = 16
	// queries bounds the questions of others that wait for an answer.
	queries      = 1024
	leaveTimeout = time.Second
	pushPull     = 5 * time.Second
	announceWait = time.Second
)

// meta is what a node's alive message carries: little, as it is repeated.
type meta struct {
	VTEP       netip.Addr `json:"v"`
	Epoch      uint64     `json:"e"`           // of the process
	Generation uint64     `json:"g"`           // of its record
	Leaving    bool       `json:"l,omitempty"` // it ends in order
}

// Gossip is this host's part in a cluster without a server: members find failures and
// spread who is there by memberlist's protocol (SWIM), and fetch each other's records.
type Gossip struct {
	o         Options
	epoch     uint64
	list      *memberlist.Memberlist
	keys      *memberlist.Keyring
	self      string // address and port where the others reach this node
	wake      chan struct{}
	published chan struct{}
	asked     chan query
	slots     chan struct{}

	mu         sync.Mutex
	own        Record
	generation uint64
	members    map[string]*member // but this one
	view       *View              // nil = to be made when it is asked for
	problems   map[string]string  // by what they are about
	refused    uint64
	joined     bool
	leaving    bool
	closed     bool
}

// member is another node.
type member struct {
	node   memberlist.Node
	meta   meta
	record Record
	has    meta // of record; the zero value = there is none
	bad    meta // of the last that was refused
	synced time.Time
	seed   string // where it gossiped last, of one not heard yet
	alive  bool
	gone   *time.Timer // withdraws it, when it is not alive
	nonce  string      // of the question that is open
	since  time.Time   // when it was asked
}

// query asks for this node's record.
type query struct {
	From  string `json:"from"`
	Nonce string `json:"nonce"` // known to the one asked alone, so that no other can answer
}

// reply is the answer.
type reply struct {
	Nonce      string `json:"nonce"`
	Epoch      uint64 `json:"epoch"`
	Generation uint64 `json:"generation"`
	Record     Record `json:"record"`
}

// The first byte of a message.
const (
	msgQuery = 'q'
	msgReply = 'r'
)

// Open binds the sockets and reads the keys. Run does the rest.
func Open(o Options) (*Gossip, error) {
	g := &Gossip{
		o: o, epoch: rand.Uint64(), generation: 1,
		wake: make(chan struct{}, 1), published: make(chan struct{}, 1), asked: make(chan query, queries), slots: make(chan struct{}, fetches),
		own:     Record{Node: o.Node},
		members: make(map[string]*member), problems: make(map[string]string),
	}
	c := memberlist.DefaultLANConfig()
	c.Name = o.Node.Name
	c.BindAddr, c.BindPort = o.Bind.Addr().String(), int(o.Bind.Port())
	c.AdvertisePort = c.BindPort
	if o.Bind.Addr().IsUnspecified() {
		c.AdvertiseAddr = o.Node.VTEP.String()
	} else {
		c.AdvertiseAddr = c.BindAddr
	}
	g.self = net.JoinHostPort(c.AdvertiseAddr, strconv.Itoa(c.AdvertisePort))
	// A member that says nothing is found dead after about two fifths of the TTL, and
	// withdrawn after the rest.
	c.ProbeInterval = max(o.TTL/20, 100*time.Millisecond)
	c.ProbeTimeout = c.ProbeInterval / 2
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
	c.DeadNodeReclaimTime = o.TTL
	// A node that was away for less than is noticed learns of the others by this.
	c.PushPullInterval = pushPull
	c.DNSConfigPath = "/etc/resolv.conf"
	c.Delegate, c.Events, c.Alive, c.Merge, c.Conflict = (*delegate)(g), (*delegate)(g), (*delegate)(g), (*delegate)(g), (*delegate)(g)
	c.Logger = log.New(&logWriter{g}, "", 0)
	if o.KeyFile != "" {
		keys, err := ReadKeys(o.KeyFile)
		if err != nil {
			return nil, err
		}
		if c.Keyring, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
			return nil, fmt.Errorf("taking the keys of %s: %w", o.KeyFile, err)
		}
		g.keys = c.Keyring
		g.checkMode()
	}
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, fmt.Errorf("listening for the cluster on %s: %w", o.Bind, err)
	}
	g.list = list
	return g, nil
}

// Run takes part until ctx ends.
func (g *Gossip) Run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() { g.join(ctx) })
	wait.Go(func() { g.fetchAll(ctx) })
	wait.Go(func() { g.answerAll(ctx) })
	wait.Go(func() { g.announceAll(ctx) })
	wait.Wait()
}

// Close ends the part. With leave the others are notified, and withdraw this node's
// record at once; else they keep it until it comes back or the TTL is over.
func (g *Gossip) Close(leave bool) error {
	g.mu.Lock()
	g.closed, g.leaving = true, leave
	for _, m := range g.members {
		if m.gone != nil {
			m.gone.Stop()
		}
	}
	g.mu.Unlock()
	var err error
	if leave {
		// memberlist does not say of a node that is gone whether it left.
		_ = g.list.UpdateNode(leaveTimeout)
		err = g.list.Leave(leaveTimeout)
	}
	return errors.Join(err, g.list.Shutdown())
}

// Publish makes r this node's record. Node is left as it is.
func (g *Gossip) Publish(r Record) {
	r.Node = g.o.Node
	r.sorted()
	g.mu.Lock()
	same := equal(&r, &g.own)
	if !same {
		g.own = r
		g.generation++
		g.view = nil
	}
	g.mu.Unlock()
	if same {
		return
	}
	select {
	case g.published <- struct{}{}:
	default:
	}
}

// announceAll spreads that this node's record changed.
func (g *Gossip) announceAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.published:
		}
		// It waits until the message is sent as often as it is to be.
		if err := g.list.UpdateNode(announceWait); err != nil {
			g.o.Log.Debug("cluster: spreading that the record changed", "err", err)
		}
	}
}

// equal compares what is sent.
func equal(a, b *Record) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

// View returns what is known now.
func (g *Gossip) View() *View {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.view == nil {
		g.view = g.makeView()
	}
	return g.view
}

// Problems lists what is wrong, in a fixed order, each with its remedy.
func (g *Gossip) Problems() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]string, 0, len(g.problems))
	for _, p := range g.problems {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// Refused is how many messages and records were not taken.
func (g *Gossip) Refused() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// Rekey reads the key file again. The keys that it holds no more are forgotten.
func (g *Gossip) Rekey() error {
	if g.o.KeyFile == "" {
		return nil
	}
	keys, err := ReadKeys(g.o.KeyFile)
	if err != nil {
		return err
	}
	g.checkMode()
	for _, k := range keys {
		if err := g.keys.AddKey(k); err != nil {
			return fmt.Errorf("taking a key of %s: %w", g.o.KeyFile, err)
		}
	}
	if err := g.keys.UseKey(keys[0]); err != nil {
		return fmt.Errorf("sending with the first key of %s: %w", g.o.KeyFile, err)
	}
	for _, k := range slices.Clone(g.keys.GetKeys()) {
		if !slices.ContainsFunc(keys, func(x []byte) bool { return bytes.Equal(x, k) }) {
			if err := g.keys.RemoveKey(k); err != nil {
				return fmt.Errorf("forgetting a key: %w", err)
			}
		}
	}
	return nil
}

// checkMode files a problem when other users can read the keys.
func (g *Gossip) checkMode() {
	problem := ""
	if s, err := os.Stat(g.o.KeyFile); err == nil && s.Mode().Perm()&0o077 != 0 {
		problem = fmt.Sprintf("cluster: %s has mode %04o: every user who reads it can be a member: chmod 600 %s", g.o.KeyFile, s.Mode().Perm(), g.o.KeyFile)
	}
	g.setProblem("mode", problem)
}

// Seed takes members over from a process before this one: they count as silent until
// they are heard.
func (g *Gossip) Seed(members []Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range members {
		if x.Node.Name == g.o.Node.Name || g.members[x.Node.Name] != nil || x.Record.Check() != nil {
			continue
		}
		m := &member{record: x.Record, has: meta{VTEP: x.Node.VTEP}, synced: x.Synced, seed: x.Gossip}
		g.members[x.Node.Name] = m
		g.withdrawLater(x.Node.Name, m, g.o.TTL)
	}
	g.view = nil
}

// makeView is called with mu held.
func (g *Gossip) makeView() *View {
	all := []Member{{Record: g.own, Alive: true, Synced: time.Now()}}
	for name, m := range g.members {
		r := m.record
		if m.has == (meta{}) {
			r = Record{Node: Node{Name: name, VTEP: m.meta.VTEP}}
		}
		at := m.seed
		if m.alive {
			at = m.node.Address()
		}
		all = append(all, Member{Record: r, Alive: m.alive, Gossip: at, Synced: m.synced})
	}
	return NewView(g.o.Node.Name, all)
}

// changed has the view made again. The caller holds mu, and calls the function that is
// returned after it gave mu back.
func (g *Gossip) changed() func() {
	g.view = nil
	if g.closed {
		return func() {}
	}
	return g.o.Changed
}

// withdrawLater is called with mu held.
func (g *Gossip) withdrawLater(name string, m *member, after time.Duration) {
	if m.gone != nil {
		m.gone.Stop()
	}
	m.gone = time.AfterFunc(after, func() {
		g.mu.Lock()
		notify := func() {}
		if g.members[name] == m && !m.alive {
			delete(g.members, name)
			delete(g.problems, "record "+name)
			notify = g.changed()
			g.o.Log.Info("a member of the cluster is withdrawn: it was silent for too long", "node", name)
		}
		g.mu.Unlock()
		notify()
	})
}

// setProblem files a problem; "" = there is none any more.
func (g *Gossip) setProblem(about, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if problem == "" {
		delete(g.problems, about)
	} else {
		g.problems[about] = problem
	}
}

// join joins the members that are named, again and again: one that is not reached
// may come later, and after a partition both sides must find each other.
func (g *Gossip) join(ctx context.Context) {
	wait := joinEvery
	for {
		missing := g.missing()
		if len(missing) == 0 {
			g.setProblem("join", "")
			wait = joinEvery
		} else {
			n, err := g.list.Join(missing)
			if n > 0 {
				wait = joinEvery
			}
			g.joinResult(n, len(missing), err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		wait = min(2*wait, joinAtMost)
	}
}

// joinResult files what became of a try. That some do not answer is no problem while
// others do.
func (g *Gossip) joinResult(n, of int, err error) {
	g.mu.Lock()
	others := 0
	for _, m := range g.members {
		if m.alive {
			others++
		}
	}
	first := n > 0 && !g.joined
	g.joined = g.joined || n > 0
	g.mu.Unlock()
	if first {
		g.o.Log.Info("joined the cluster", "node", g.o.Node.Name, "members", g.list.NumMembers())
	}
	if err == nil || n > 0 || others > 0 {
		g.setProblem("join", "")
		return
	}
	g.setProblem("join", fmt.Sprintf("cluster: none of the %d members to join was joined, and this host is alone: see whether they run, have the same key, "+
		"and whether a firewall drops TCP and UDP port %d: %s", of, g.o.Bind.Port(), oneLine(err)))
	g.o.Limit.Warn("cluster join", g.o.Log, "none of the members to join was joined: trying again", "err", oneLine(err))
}

// oneLine is the text of an error of several lines, bounded.
func oneLine(err error) string {
	s := string(bytes.Join(bytes.Fields([]byte(err.Error())), []byte(" ")))
	return s[:min(len(s), 500)]
}

// missing are the members to join that are not known to be alive: those of the process
// before this one, and those that are named; DNS names, which are resolved again each
// time, while this node is alone.
func (g *Gossip) missing() []string {
	alive := map[string]bool{g.self: true}
	var out []string
	g.mu.Lock()
	for _, m := range g.members {
		if m.alive {
			alive[m.node.Address()] = true
		} else if m.seed != "" {
			out = append(out, m.seed)
		}
	}
	g.mu.Unlock()
	for _, j := range g.o.Join {
		host, port := j, strconv.Itoa(DefaultPort)
		if h, p, err := net.SplitHostPort(j); err == nil {
			host, port = h, p
		}
		at := net.JoinHostPort(host, port)
		if a, err := netip.ParseAddr(host); err == nil {
			if !alive[net.JoinHostPort(a.String(), port)] {
				out = append(out, at)
			}
		} else if len(alive) < 2 {
			out = append(out, at)
		}
	}
	return out
}

// fetchAll fetches the record of every member that has another than is known.
func (g *Gossip) fetchAll(ctx context.Context) {
	tick := time.NewTicker(syncTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-tick.C:
		}
		for _, due := range g.due() {
			select {
			case g.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			go func() {
				defer func() { <-g.slots }()
				g.send(&due.node, msgQuery, query{From: g.o.Node.Name, Nonce: due.nonce})
			}()
		}
	}
}

// question is one to be asked.
type question struct {
	node  memberlist.Node
	nonce string
}

func (g *Gossip) due() []question {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []question
	for _, m := range g.members {
		if !m.alive || m.has == m.meta || m.bad == m.meta || m.nonce != "" && time.Since(m.since) < fetchWait {
			continue
		}
		m.nonce, m.since = newNonce(), time.Now()
		out = append(out, question{m.node, m.nonce})
	}
	return out
}

// answerAll answers the questions of others.
func (g *Gossip) answerAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-g.asked:
			g.mu.Lock()
			m := g.members[q.From]
			var to memberlist.Node
			if m != nil {
				to = m.node
			}
			r := reply{Nonce: q.Nonce, Epoch: g.epoch, Generation: g.generation, Record: g.own}
			g.mu.Unlock()
			if m == nil {
				continue // it asks again
			}
			select {
			case g.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			go func() {
				defer func() { <-g.slots }()
				g.send(&to, msgReply, r)
			}()
		}
	}
}

func (g *Gossip) send(to *memberlist.Node, kind byte, what any) {
	b, err := json.Marshal(what)
	if err == nil {
		err = g.list.SendReliable(to, append([]byte{kind}, b...))
	}
	if err != nil {
		g.o.Limit.Warn("cluster send", g.o.Log, "cannot send to a member of the cluster: trying again", "node", to.Name, "err", err)
	}
}

// take takes the answer of a member, if that was asked.
func (g *Gossip) take(r *reply) {
	g.mu.Lock()
	notify := func() {}
	defer func() {
		g.mu.Unlock()
		notify()
	}()
	for name, m := range g.members {
		if m.nonce == "" || m.nonce != r.Nonce {
			continue
		}
		m.nonce = ""
		about := "record " + name
		if err := r.Record.belongs(name, m.meta.VTEP); err != nil {
			g.refused++
			g.problems[about] = fmt.Sprintf("cluster: the record of member %s is refused: %v: what was known of it before holds", name, err)
			m.bad = m.meta // not to be asked for again before it changes
			return
		}
		delete(g.problems, about)
		same := m.has != (meta{}) && equal(&m.record, &r.Record)
		m.record, m.has, m.synced = r.Record, meta{VTEP: m.meta.VTEP, Epoch: r.Epoch, Generation: r.Generation}, time.Now()
		if notify = g.changed(); same {
			notify = func() {}
		}
		return
	}
	g.refused++ // of no question that is open
}

// belongs is an error when the record is not one of that node.
func (r *Record) belongs(name string, vtep netip.Addr) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Node.Name != name || r.Node.VTEP != vtep {
		return fmt.Errorf("it is one of %s (%s)", r.Node.Name, r.Node.VTEP)
	}
	return nil
}

// logWriter takes the lines of memberlist's logger.
type logWriter struct{ g *Gossip }

var _ io.Writer = (*logWriter)(nil)

// Write logs a line at debug level, warnings and errors too: what is wrong is a problem
// of its own in status, and any host can send bytes to the port.
func (w *logWriter) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	if i := bytes.IndexByte(b, ']'); i > 0 && b[0] == '[' {
		line = string(bytes.TrimSpace(b[i+1:]))
		if level := string(b[1:i]); level == "ERR" || level == "WARN" {
			w.g.mu.Lock()
			w.g.refused++
			w.g.mu.Unlock()
		}
	}
	w.g.o.Log.Debug("cluster: " + line)
	return len(b), nil
}
