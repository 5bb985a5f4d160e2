package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"overtap/cmd/internal/cluster"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// oldDaemon is the daemon whose place this one takes.
type oldDaemon struct {
	offer
	link    *control.Handover
	socket  *os.File
	metrics *os.File // nil = it has none
	learned []dataplane.FDBEntry
	taken   bool // it has said that its path stands still, or is gone
}

// askHandover asks the daemon that answers on the control socket for its place, if one
// does, and takes its offer.
func (d *daemon) askHandover(ctx context.Context) error {
	path := d.conf().Control.Socket
	switch err := control.CheckFree(path); {
	case err == nil:
		return nil
	case !errors.Is(err, control.ErrAnswered) || d.NoTakeover:
		return err
	}
	link, err := control.NewClient(path).TakeOver(ctx, d.Version)
	if err != nil {
		return err
	}
	p := &oldDaemon{link: link}
	if err := p.receive(); err != nil {
		p.close()
		return err
	}
	if err := p.fits(d.conf()); err != nil {
		link.Fail(err)
		p.close()
		return err
	}
	d.before = p
	d.host.TakeOver(p.Owner, p.Undo)
	d.Log.Info("taking over from the daemon that runs", "pid", p.PID, "version", p.Version)
	return nil
}

// receive takes the offer.
func (p *oldDaemon) receive() error {
	if err := p.link.Receive(msgOffer, &p.offer); err != nil {
		p.Engine = nil // its numbers mean nothing here
		return err
	}
	if p.Engine == nil {
		return errors.New("the daemon that runs offers no engine")
	}
	listeners := 1
	if p.Metrics != "" {
		listeners = 2
	}
	count := 0
	_ = p.Engine.Each(func(*int) error { count++; return nil })
	fds, err := p.link.TakeFiles(listeners + count)
	if err != nil {
		p.Engine = nil // its numbers mean nothing here
		return err
	}
	p.socket = os.NewFile(uintptr(fds[0]), "control socket")
	if listeners == 2 {
		p.metrics = os.NewFile(uintptr(fds[1]), "metrics listener")
	}
	next := fds[listeners:]
	_ = p.Engine.Each(func(fd *int) error { *fd, next = next[0], next[1:]; return nil })
	p.learned, err = p.receiveLearned()
	return err
}

func (p *oldDaemon) receiveLearned() (all []dataplane.FDBEntry, err error) {
	for {
		var part learned
		if err := p.link.Receive(msgLearned, &part); err != nil {
			return all, err
		}
		all = append(all, part.Entries...)
		if part.Last {
			return all, nil
		}
	}
}

// close ends the connection, by which the other daemon goes on unless it has
// handed over, and closes what was not used.
func (p *oldDaemon) close() {
	p.link.Close()
	for _, f := range []*os.File{p.socket, p.metrics} {
		if f != nil {
			f.Close()
		}
	}
	if p.Engine != nil {
		p.Engine.Close()
	}
}

// abandon gives everything back to the daemon before, unless it has handed over.
func (d *daemon) abandon() error {
	if d.before == nil {
		return nil
	}
	p := d.before
	defer p.close()
	if p.taken {
		return nil
	}
	p.link.Fail(errors.New("it could not start"))
	if err := d.host.Abandon(p.Undo); err != nil {
		return fmt.Errorf("undoing the host's set-up: %w", err)
	}
	return nil
}

// restoreStatic goes on with the entries of the command line that the
// configuration has room for.
func (d *daemon) restoreStatic() {
	for _, n := range d.base.Networks {
		for mac, peer := range d.before.Static[n.Name] {
			if d.checkEntry(n, control.Entry{Network: n.Name, MAC: mac, Peer: peer}) != nil {
				continue
			}
			if d.static[n.Name] == nil {
				d.static[n.Name] = make(map[encap.MAC]netip.Addr)
			}
			d.static[n.Name][mac] = peer
		}
	}
}

// restoreMembers goes on with what is known of the cluster.
func (d *daemon) restoreMembers() {
	name, err := d.nodeName()
	if err != nil || !d.conf().Cluster.On || len(d.before.Cluster) == 0 {
		return
	}
	d.view = cluster.NewView(name, d.before.Cluster)
}

// oldDaemonEnd is how long a daemon that does not say that it stands still may
// take to end.
const oldDaemonEnd = 20 * time.Second

// takeOver ends the hand-over, once all is prepared: the daemon before stops its
// path, and ours begins.
func (d *daemon) takeOver() error {
	p := d.before
	restored := d.restore(p.learned)
	// From here on one of the two must go on, and which is only known at the end.
	if !p.link.KeepOpen() {
		return context.Canceled
	}
	if err := p.link.Send(msgCommit, nil); err != nil {
		return err
	}
	var s stopped
	if err := p.link.Receive(msgStopped, &s); err != nil {
		// It may be beyond the point where it could go on: only its end is sure.
		for deadline := time.Now().Add(oldDaemonEnd); ; time.Sleep(100 * time.Millisecond) {
			lives, aerr := host.Alive(p.Owner)
			if !lives {
				break
			}
			if aerr != nil || time.Now().After(deadline) {
				return errors.Join(err, aerr)
			}
		}
		d.Log.Warn("the daemon before ended while it handed over: going on with what it had", "err", err)
	}
	p.taken = true
	d.engine.get().Start()
	gap := time.Duration(0)
	if s.At != 0 {
		gap = time.Duration(monotonic() - s.At)
	}
	if last, err := p.receiveLearned(); err != nil {
		d.Log.Warn("what was learned last is lost", "err", err)
	} else {
		d.restore(last)
	}
	p.close()
	d.Log.Info("took over", "pid", p.PID, "stood_still", gap, "learned", restored, "learned_before", len(p.learned))
	return nil
}

func (d *daemon) restore(entries []dataplane.FDBEntry) int {
	n, err := d.engine.get().Restore(entries)
	if err != nil {
		d.Log.Warn("going on with what was learned", "err", err)
	}
	return n
}

// settle makes what is set up outlive this process, and removes what a daemon
// before had and this one has not.
func (d *daemon) settle() error {
	d.host.TakeJournal(journalPath(d.conf().Control.Socket))
	if err := d.host.Settle(); err != nil {
		d.Log.Warn("removing what a daemon before left", "err", err)
	}
	d.settled = true
	for _, n := range d.hostNetworks() {
		if err := d.engine.get().Persist(n.Name); err != nil {
			return err
		}
	}
	return nil
}

// journalPath is the file that keeps what is to be undone, beside the socket, by
// which one daemon is distinguished from another.
func journalPath(socket string) string { return socket + ".journal" }

// adoptable decides about the device that the engine is about to open.
func (d *daemon) adoptable(s netio.DeviceSpec) (bool, error) {
	return d.host.Adopt(s.Name, s.TUN, s.Queues > 1, !s.Plain)
}

// freePorts are those of the ports that the daemon before does not leave to us.
func (d *daemon) freePorts(ports []uint16) []uint16 {
	if d.before == nil {
		return ports
	}
	return slices.DeleteFunc(ports, func(port uint16) bool {
		return slices.ContainsFunc(d.before.Engine.Ports, func(p netio.HandoverPort) bool { return p.Port == port })
	})
}

// handedOverMetrics is the listener of the daemon before, nil when it has none or
// another.
func (d *daemon) handedOverMetrics() (net.Listener, error) {
	p := d.before
	if p == nil || p.metrics == nil || p.Metrics != d.conf().Control.Metrics {
		return nil, nil
	}
	l, err := net.FileListener(p.metrics)
	if err != nil {
		return nil, fmt.Errorf("going on with the metrics listener: %w", err)
	}
	return l, nil
}

// listenControl opens the control socket, or goes on with that of the daemon
// before.
func (d *daemon) listenControl() (*control.Listener, error) {
	if d.before == nil {
		l, err := control.Listen(d.conf().Control.Socket)
		if err == nil {
			l.AlsoRemove(d.Made)
		}
		return l, err
	}
	f := d.before.socket
	d.before.socket = nil
	return control.ListenOn(f, d.before.Dirs)
}
