package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Attacher makes, lists and removes attachments on the bridges of one network
// namespace. Its methods may be called from any goroutine.
type Attacher struct {
	nl      *netlink.Handle
	foreign map[int]*nl.SocketHandle // asks about links of other namespaces
	strict  bool                     // the kernel answers it as asked

	mu       sync.Mutex
	busy     map[uint64]chan struct{} // namespaces under change, by inode; closed when it ends
	changes  sync.WaitGroup           // under way
	closed   bool
	seen     map[int]Attachment // by the index of the host's end: what Track knows
	changing map[int]bool       // host's ends of attachments that are being made or removed
	claimed  map[claimed]bool   // addresses of attachments that are being made
}

// New opens netlink sockets in the calling thread's network namespace.
func New() (*Attacher, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// Else the kernel takes no notice of a dump's attributes, the namespace that
	// is meant among them (inet_valid_dump_ifaddr_req). Under one that lacks it
	// (before 4.20) attachments are listed without what is inside.
	strict := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	return &Attacher{nl: h, foreign: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, strict: strict, busy: make(map[uint64]chan struct{}),
		seen: make(map[int]Attachment), changing: make(map[int]bool), claimed: make(map[claimed]bool)}, nil
}

// Close waits for the changes under way and closes the sockets. Attachments
// stay.
func (a *Attacher) Close() {
	a.mu.Lock()
	was := a.closed
	a.closed = true
	a.mu.Unlock()
	a.changes.Wait()
	if !was {
		a.nl.Close()
		a.foreign[unix.NETLINK_ROUTE].Close()
	}
}

// begin waits until no other job changes the namespace ns, nil being one by itself,
// and keeps others from it until the returned function is called. So of two
// changes neither chooses what the other is about to take, nor undoes what the
// other builds upon; other containers do not wait for it.
func (a *Attacher) begin(ctx context.Context, ns *os.File) (end func(), err error) {
	var key uint64
	if ns != nil {
		var s unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &s); err != nil {
			return nil, fmt.Errorf("looking at its network namespace: %w", err)
		}
		key = s.Ino
	}
	for {
		a.mu.Lock()
		if a.closed {
			a.mu.Unlock()
			return nil, errClosed
		}
		other, busy := a.busy[key]
		if !busy {
			done := make(chan struct{})
			a.busy[key] = done
			a.changes.Add(1)
			a.mu.Unlock()
			return func() {
				a.mu.Lock()
				delete(a.busy, key)
				a.mu.Unlock()
				close(done)
				a.changes.Done()
			}, nil
		}
		a.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ErrNotAttached says that there is no attachment as it was selected.
var ErrNotAttached = errors.New("it is not attached")

var errClosed = errors.New("the daemon is stopping: ask the next one")

// Attach joins the namespace ns to the network as r says. When a step fails, or
// ctx ends before the last one has succeeded, all that was done is undone.
func (a *Attacher) Attach(ctx context.Context, n Network, ns *os.File, r Request) (made Made, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("attaching %s to network %s: %w", r.Target, r.Network, err)
		}
	}()
	if err := r.check(n); err != nil {
		return Made{}, err
	}
	end, err := a.begin(ctx, ns)
	if err != nil {
		return Made{}, err
	}
	defer end()
	release, err := a.claim(n.Bridge, r.Addresses)
	if err != nil {
		return Made{}, err
	}
	defer release()
	j := &job{Request: r, network: n, ns: ns, host: a.nl, raw: a.foreign, change: a.change}
	defer j.close()
	if err := j.prepare(); err != nil {
		return Made{}, err
	}
	for _, step := range j.steps() {
		err := step(ctx)
		if err == nil {
			// The client has gone, and will not know that it is attached.
			err = ctx.Err()
		}
		if err != nil {
			return Made{}, errors.Join(append([]error{err}, j.undo()...)...)
		}
	}
	m := j.made()
	j.done(&m.Attachment)
	return m, nil
}

// claimed is an address on a bridge.
type claimed struct {
	bridge  string
	address netip.Addr
}

// claim keeps the addresses from other attachments to the same bridge until the
// returned function is called: two that ask for an address at the same time would
// both find it free, since no device has it yet.
func (a *Attacher) claim(bridge string, addresses []netip.Prefix) (release func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range addresses {
		if a.claimed[claimed{bridge, p.Addr()}] {
			return nil, fmt.Errorf("the address %s is taken, by another container that is being attached: choose another", p.Addr())
		}
	}
	for _, p := range addresses {
		a.claimed[claimed{bridge, p.Addr()}] = true
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, p := range addresses {
			delete(a.claimed, claimed{bridge, p.Addr()})
		}
	}, nil
}

// Detach removes the attachment that s selects of those in the namespace ns, or,
// where that is nil because the target cannot be resolved any more, of those
// that were made under the target's name. It is looked for among the networks'
// attachments and those on no bridge.
func (a *Attacher) Detach(networks []Network, ns *os.File, s Selector) (gone Attachment, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("detaching %s from network %s: %w", s.Target, s.Network, err)
		}
	}()
	end, err := a.begin(context.Background(), ns)
	if err != nil {
		return Attachment{}, err
	}
	defer end()
	nsid := noNamespace
	if ns != nil {
		if err := checkNamespace(ns); err != nil {
			return Attachment{}, err
		}
		if nsid, err = a.nl.GetNetNsIdByFd(int(ns.Fd())); err != nil {
			return Attachment{}, fmt.Errorf("identifying its network namespace: %w", err)
		}
	}
	all, _, err := a.find(networks, nil)
	if err != nil {
		return Attachment{}, err
	}
	all = slices.DeleteFunc(all, func(f found) bool {
		same := f.Target == s.Target
		if ns != nil {
			same = f.nsid == nsid && nsid != noNamespace
		}
		return !same || f.Network != s.Network || s.IfName != "" && f.IfName != s.IfName
	})
	switch len(all) {
	case 0:
		as := ""
		if s.IfName != "" {
			as = " as " + s.IfName
		}
		return Attachment{}, fmt.Errorf("%w%s: see `overtap status`", ErrNotAttached, as)
	case 1:
	default:
		return Attachment{}, fmt.Errorf("it is attached more than once: name one of %s with --ifname", ifNames(all))
	}
	done := a.change(all[0].index)
	link, err := a.nl.LinkByIndex(all[0].index)
	if err == nil {
		err = a.nl.LinkDel(link)
	}
	if err != nil && !notThere(err) { // else the container died this moment
		done(&all[0].Attachment)
		return Attachment{}, fmt.Errorf("deleting %s: %w", all[0].Veth, err)
	}
	done(nil)
	return all[0].Attachment, nil
}

// Restore puts the networks' attachments that are on no bridge onto their bridges,
// as they are after a daemon ended and took the bridges with it, and returns them.
// It lists the host's links once, however many networks there are.
func (a *Attacher) Restore(networks ...Network) ([]Attachment, error) {
	end, err := a.begin(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	defer end()
	all, _, err := a.find(networks, nil)
	if err != nil {
		return nil, err
	}
	var back []Attachment
	var errs []error
	for _, f := range all {
		i := slices.IndexFunc(networks, func(n Network) bool { return n.Name == f.Network })
		if i < 0 || f.Bridge != "" {
			continue
		}
		n := networks[i]
		if err := a.restore(n, f); err != nil && !notThere(err) {
			errs = append(errs, fmt.Errorf("putting %s, of %s, back on %s: %w", f.Veth, f.Target, n.Bridge, err))
			continue
		}
		f.Bridge = n.Bridge
		back = append(back, f.Attachment)
	}
	return back, errors.Join(errs...)
}

func (a *Attacher) restore(n Network, f found) error {
	bridge, err := a.nl.LinkByName(n.Bridge)
	if err != nil {
		return err
	}
	link, err := a.nl.LinkByIndex(f.index)
	if err != nil {
		return err
	}
	if err := a.nl.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	return a.nl.LinkSetUp(link)
}

func ifNames(all []found) string {
	names := make([]string, len(all))
	for i, f := range all {
		names[i] = f.IfName
	}
	return strings.Join(names, ", ")
}

// notThere reports whether err says that a link does not exist.
func notThere(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}
