package lab

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

// logLines is how much of a daemon's log is shown when a lab fails.
const logLines = 15

// Up builds the lab, proves that it works, and prints what it is. Of a lab that
// does not work nothing is left. A lab that is up already is only printed; a
// damaged one is built anew.
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
	if peer, err = choosePeer(peer); err != nil {
		return err
	}
	p.printf("Building lab %s: host a with overtap, host b with %s.\n", t.Name, peer.long())
	if err := t.makeAndShow(ctx, p, peer); err != nil {
		err = explain(fmt.Errorf("lab %s: %w", t.Name, err))
		for _, host := range hostNames {
			if tail := t.logTail(host, logLines); tail != nil {
				p.printf("\nThe end of overtap's log in host %s:\n", host)
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
	pings, err := t.ping(ctx, l)
	if err != nil {
		return err
	}
	r, err := t.report(ctx, l, s, pings)
	if err != nil {
		return err
	}
	if lost := r.unanswered(); lost != "" {
		r.print(p)
		return fmt.Errorf("nothing answers the ping from %s", lost)
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
	pings, err := t.ping(ctx, l)
	if err != nil {
		return fmt.Errorf("lab %s: %w", t.Name, err)
	}
	r, err := t.report(ctx, l, s, pings)
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

// choosePeer decides what AnyPeer is on this kernel.
func choosePeer(peer Peer) (Peer, error) {
	have := netlab.HaveKernelVXLAN()
	switch peer {
	case AnyPeer:
		if have {
			return KernelPeer, nil
		}
		return OvertapPeer, nil
	case KernelPeer:
		if !have {
			return "", errors.New("this kernel has no vxlan to be the peer: use --peer overtap")
		}
	}
	return peer, nil
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
