package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/cluster"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/fdb"
)

// A daemon leaves everything to another in this order. The other's part stands in
// handover_new.go.
//
//  1. It offers its open queues and sockets, what it would undo, the entries of the
//     command line and those learned. Nothing changes here until step 3, and it
//     takes no other orders.
//  2. The other makes its engine of that, which stands still, sets the host up as
//     its own configuration says, and says "commit". When it says anything else, or
//     goes, this daemon goes on.
//  3. This one stops its path, says "stopped", and the other's path begins: what
//     came in between waits in queues and sockets.
//  4. It sends what it learned meanwhile, and ends. It removes nothing.

// offer is what the old daemon sends first.
type offer struct {
	Version string      `json:"version"`
	PID     int         `json:"pid"`
	Owner   string      `json:"owner"` // what its links are marked with
	Address string      `json:"underlay_address"`
	Device  string      `json:"underlay_device"`
	Metrics string      `json:"metrics"` // address of the listener; "" = there is none
	Dirs    []string    `json:"dirs"`    // made for the control socket
	Undo    []host.Step `json:"undo"`
	Static  static      `json:"static"`
	// Cluster are the members, as the networks know them.
	Cluster []cluster.Member `json:"cluster,omitempty"`
	Engine  *netio.Handover  `json:"engine"`
}

// learned is a part of the forwarding tables.
type learned struct {
	Entries []dataplane.FDBEntry `json:"entries"`
	Last    bool                 `json:"last"`
}

// stopped says that the path stands still.
type stopped struct {
	At int64 `json:"at"` // in nanoseconds of CLOCK_MONOTONIC
}

// The kinds of messages.
const (
	msgOffer   = "offer"
	msgLearned = "learned"
	msgCommit  = "commit"
	msgStopped = "stopped"
)

// entriesPerMessage bounds a message of learned entries.
const entriesPerMessage = 10_000

// HandOver implements control.Daemon.
func (d *daemon) HandOver(s *control.Handover) {
	over, err := d.beginHandOver()
	if err != nil {
		s.Fail(err)
		return
	}
	defer over()
	defer context.AfterFunc(d.ending, s.Cut)()
	d.Log.Info("another daemon is about to take over")
	asked := time.Now()
	if err := d.offer(s); err != nil {
		d.Log.Warn("nothing was handed over: going on", "err", err)
		s.Fail(err)
		return
	}
	if err := s.Receive(msgCommit, nil); err != nil {
		d.Log.Warn("the other daemon did not take over: going on", "err", err)
		return // also when this one is being stopped: it undoes all itself
	}
	d.yield(s, asked)
}

// beginHandOver keeps what is handed over as it is until the returned function is
// called.
func (d *daemon) beginHandOver() (over func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed || !d.serving:
		return nil, errors.New("it starts or stops this moment, or opens its sockets again: try later")
	case d.pending != nil:
		return nil, errors.New("another daemon is about to take over: try again")
	}
	d.pending = make(chan struct{})
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(d.pending)
		d.pending = nil
	}, nil
}

// offer is step 1.
func (d *daemon) offer(s *control.Handover) error {
	files, err := d.listeners()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	o := offer{
		Version: d.Version, PID: os.Getpid(), Dirs: d.socket.Made(), Static: d.static,
		Address: d.conf().Underlay.Address.String(), Device: d.conf().Underlay.Device,
	}
	o.Owner, o.Undo = d.host.HandoverState()
	if d.view != nil {
		o.Cluster = d.view.Members
	}
	if d.web != nil {
		o.Metrics = d.conf().Control.Metrics
	}
	if o.Engine, err = d.engine.get().Handover(); err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fd, err := number(f)
		if err != nil {
			return fmt.Errorf("handing over the listeners: %w", err)
		}
		fds = append(fds, fd)
	}
	_ = o.Engine.Each(func(fd *int) error { fds = append(fds, *fd); return nil })
	if err := errors.Join(s.Send(msgOffer, o), s.SendFiles(fds)); err != nil {
		return err
	}
	return d.sendLearned(s, func(dataplane.FDBEntry) bool { return true })
}

// number is the file's descriptor. Fd would make the socket blocking, for this daemon
// too: should it go on, its Accept could never be ended.
func number(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(x uintptr) { fd = int(x) })
	return fd, err
}

// listeners are the sockets that clients come by: of control, then of the metrics
// when there is one.
func (d *daemon) listeners() (files []*os.File, err error) {
	f, err := d.socket.File()
	if err != nil {
		return nil, fmt.Errorf("handing over the control socket: %w", err)
	}
	files = append(files, f)
	if l, ok := d.web.(*net.TCPListener); ok {
		if f, err = l.File(); err != nil {
			return files, fmt.Errorf("handing over the metrics listener: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// sendLearned sends the learned entries that match.
func (d *daemon) sendLearned(s *control.Handover, match func(dataplane.FDBEntry) bool) error {
	all, err := d.engine.get().FDB("")
	if err != nil {
		return err
	}
	part := learned{}
	for i := range all {
		if all[i].Origin == fdb.Learned.String() && match(all[i]) {
			part.Entries = append(part.Entries, all[i])
		}
		if len(part.Entries) == entriesPerMessage {
			if err := s.Send(msgLearned, part); err != nil {
				return err
			}
			part.Entries = part.Entries[:0]
		}
	}
	part.Last = true
	return s.Send(msgLearned, part)
}

// yield is steps 3 and 4. There is no way back: whatever fails, the other has it
// all.
func (d *daemon) yield(s *control.Handover, asked time.Time) {
	d.yielded.Store(true)
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	e := d.engine.get()
	err := e.Leave(func() {
		if err := s.Send(msgStopped, stopped{At: monotonic()}); err != nil {
			d.Log.Warn("sending the new daemon that the path stands still", "err", err)
		}
	})
	if err != nil {
		d.Log.Warn("closing the engine", "err", err)
	}
	since := uint32(time.Since(asked)/time.Second) + 2
	if err := d.sendLearned(s, func(x dataplane.FDBEntry) bool { return x.Age <= since }); err != nil {
		d.Log.Warn("handing over what was learned last", "err", err)
	}
	d.host.Leave()
	d.socket.Leave()
	d.Log.Info("another daemon has taken over: ending")
	d.leave()
}

// monotonic is CLOCK_MONOTONIC, which is the same for every process of a host.
func monotonic() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return now.Nano()
}

// fits is an error when the daemon of the offer cannot hand over to one of the
// configuration.
func (o *offer) fits(c *config.Config) error {
	if o.Address != c.Underlay.Address.String() || o.Device != c.Underlay.Device {
		return fmt.Errorf("[underlay] is another than that of the daemon that runs (address %s, device %q), whose sockets would be taken over: stop it first, or put the values back", o.Address, o.Device)
	}
	return nil
}

// context ends with the parent, or when another daemon has taken over.
func (d *daemon) context(parent context.Context) context.Context {
	ctx, leave := context.WithCancel(parent)
	d.leave, d.ending = leave, ctx
	return ctx
}
