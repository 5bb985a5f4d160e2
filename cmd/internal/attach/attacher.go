package attach

import (
	"context"
	"errors"
	"fmt"
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

	mu      sync.Mutex
	busy    map[uint64]chan struct{} // namespaces under change, by inode; closed when it ends
	changes sync.WaitGroup           // under way
	closed  bool
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
	return &Attacher{nl: h, foreign: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, strict: strict, busy: make(map[uint64]chan struct{})}, nil
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

// begin waits until nobody changes the namespace ns, nil being one by itself,
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
	j := &job{Request: r, network: n, ns: ns, host: a.nl}
	defer j.close()
	if err := j.prepare(); err != nil {
		return Made{}, err
	}
	for _, step := range j.steps() {
		err := step(ctx)
		if err == nil {
			// Whoever asked has gone, and will not know that it is attached.
			err = ctx.Err()
		}
		if err != nil {
			return Made{}, errors.Join(append([]error{err}, j.undo()...)...)
		}
	}
	return j.made(), nil
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
	all, err := a.find(networks)
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
	link, err := a.nl.LinkByIndex(all[0].index)
	if err == nil {
		err = a.nl.LinkDel(link)
	}
	if err != nil && !notThere(err) { // else the container died this moment
		return Attachment{}, fmt.Errorf("deleting %s: %w", all[0].Veth, err)
	}
	return all[0].Attachment, nil
}

// Restore puts the network's attachments that are on no bridge onto its bridge,
// as they are after a daemon ended and took the bridge with it, and returns them.
func (a *Attacher) Restore(n Network) ([]Attachment, error) {
	end, err := a.begin(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	defer end()
	all, err := a.find([]Network{n})
	if err != nil {
		return nil, err
	}
	var back []Attachment
	var errs []error
	for _, f := range all {
		if f.Network != n.Name || f.Bridge != "" {
			continue
		}
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
