package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

// logLines is how much of a daemon's log is shown when a lab fails.
const logLines = 15

// Up builds the lab, proves that it works, and prints what it is. Of a lab that
// does not work nothing is left. A lab that is up already is only printed; a
// damaged one is built again.
func (t *Topology) Up(ctx context.Context, p *Printer, peer Peer) error {
	if err := needRoot(p, "up"); err != nil {
		return err
	}
	unlock, err := lock(ctx, func() { p.printf("Waiting for another lab command to end.\n") })
	if err != nil {
		return err
	}
	defer unlock()
	c, s, wrong, err := t.inspect()
	if err != nil {
		return fmt.Errorf("lab %s: %w", t.Name, err)
	}
	switch {
	case c == IsUp && peer != AnyPeer && peer != s.Peer:
		return fmt.Errorf("lab %s is up already, with %s in host %s: end it first by `%s lab down %s`",
			t.Name, s.Peer.long(), hostNames[1], p.Command, t.Name)
	case c == IsUp:
		return t.showAgain(ctx, p, s)
	case c == IsDamaged:
		p.printf("Lab %s is damaged (%s): removing what is left of it.\n", t.Name, wrong)
		if _, err := t.clear(); err != nil {
			return fmt.Errorf("lab %s: remove what is left of it: %w", t.Name, err)
		}
	}
	if peer, err = t.choosePeer(peer); err != nil {
		return fmt.Errorf("lab %s: %w", t.Name, err)
	}
	p.printf("Building lab %s: %s.\n", t.Name, t.with(peer))
	if err := t.makeAndShow(ctx, p, peer); err != nil {
		if ctx.Err() != nil {
			if _, err := t.clear(); err != nil {
				return fmt.Errorf("lab %s: interrupted, and removing it failed: %w", t.Name, err)
			}
			return fmt.Errorf("lab %s: interrupted; everything was removed again", t.Name)
		}
		err = explain(fmt.Errorf("lab %s: %w", t.Name, err))
		for _, h := range t.hosts {
			if tail := t.logTail(h.name, logLines); tail != nil {
				p.printf("\nThe end of overtap's log in host %s:\n", h.name)
				for _, line := range tail {
					p.printf("  %s\n", line)
				}
			}
		}
		if _, cerr := t.clear(); cerr != nil {
			return errors.Join(err, fmt.Errorf("lab %s: remove it again: %w", t.Name, cerr))
		}
		p.printf("\nThe lab did not come up; everything was removed again.\n")
		return err
	}
	return nil
}

func (t *Topology) makeAndShow(ctx context.Context, p *Printer, peer Peer) error {
	l, s, err := t.build(ctx, peer)
	if err != nil {
		return err
	}
	rows, err := t.prove(ctx, l)
	if err != nil {
		return err
	}
	r, err := t.report(ctx, l, s, rows)
	if err != nil {
		return err
	}
	if failed := r.fails(); failed != "" {
		r.print(p)
		return errors.New(failed)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.Whole = true
	if err := t.writeState(s); err != nil {
		return err
	}
	if r.several, err = severalPresent(); err != nil {
		return err
	}
	p.printf("It is up.\n\n")
	r.print(p)
	r.printNext(p)
	return nil
}

// showAgain prints a lab that was up before.
func (t *Topology) showAgain(ctx context.Context, p *Printer, s state) error {
	l, err := netlab.Open(t.Name)
	if err != nil {
		return err
	}
	rows, err := t.prove(ctx, l)
	if err != nil {
		return fmt.Errorf("lab %s: %w", t.Name, err)
	}
	r, err := t.report(ctx, l, s, rows)
	if err != nil {
		return fmt.Errorf("lab %s: %w", t.Name, err)
	}
	if r.several, err = severalPresent(); err != nil {
		return err
	}
	p.printf("Lab %s is up already, since %s.\n\n", t.Name, s.Since.Format("2006-01-02 15:04:05"))
	r.print(p)
	r.printNext(p)
	return nil
}

// choosePeer decides what AnyPeer is in this lab and on this kernel.
func (t *Topology) choosePeer(peer Peer) (Peer, error) {
	switch can := t.peers(); {
	case peer == AnyPeer && slices.Contains(can, KernelPeer) && netlab.HaveKernelVXLAN():
		return KernelPeer, nil
	case peer == AnyPeer:
		return OvertapPeer, nil
	case !slices.Contains(can, peer):
		return "", fmt.Errorf("--peer %s: overtap runs in every host of this lab: use --peer overtap, or leave it out", peer)
	case peer == KernelPeer && !netlab.HaveKernelVXLAN():
		return "", errors.New("this kernel has no vxlan to be the peer: use --peer overtap")
	}
	return peer, nil
}

// with says what is in the hosts.
func (t *Topology) with(peer Peer) string {
	if len(t.hosts) == 1 {
		return "host a with overtap"
	}
	return "host a with overtap, host b with " + peer.long()
}

// long names the peer in a sentence.
func (peer Peer) long() string {
	if peer == KernelPeer {
		return "the kernel's vxlan"
	}
	return "another overtap"
}

// needRoot says what to do without root.
func needRoot(p *Printer, verb string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("lab %s needs root, for it makes hosts out of network namespaces: run `sudo %s %s`",
		verb, p.Command, shellWords(os.Args[1:]))
}

// explain adds what EPERM means to root.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: even root may not do that here, as in a container without CAP_SYS_ADMIN and CAP_NET_ADMIN", err)
	}
	return err
}

func severalPresent() (bool, error) {
	all, err := present()
	return len(all) > 1, err
}
