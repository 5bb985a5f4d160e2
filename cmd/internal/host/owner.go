package host

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The marks begin the alias (IFLA_IFALIAS, shown by `ip link`) of the bridges that
// were made here and of the TAPs and TUNs that the engine opened; the id of the run
// that owns the link follows. So a run after a crash knows what its predecessor
// made, goes on with it, and removes it in its place.
const (
	bridgeMark = "overtap bridge "
	deviceMark = "overtap device "
)

// owner is what this run's links are known by, for as long as it lives. A
// socket with an abstract name says so: like a bridge it belongs to the network
// namespace, so that a daemon with other process ids or another file system
// finds it too, and it ends with its process, however that ends.
type owner struct {
	id string
	fd int
}

func newOwner() (owner, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return owner{}, fmt.Errorf("opening the socket that marks this run: %w", err)
	}
	o := owner{id: rand.Text(), fd: fd}
	if err := unix.Bind(fd, lifeSign(o.id)); err != nil {
		unix.Close(fd)
		return owner{}, fmt.Errorf("naming the socket that marks this run: %w", err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		unix.Close(fd)
		return owner{}, fmt.Errorf("listening on the socket that marks this run: %w", err)
	}
	return o, nil
}

func (o owner) close() { unix.Close(o.fd) }

// lifeSign is the name of a run's socket; @ stands for the zero byte of abstract
// names.
func lifeSign(id string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "@overtap/" + id}
}

// Alive reports whether the run of an id lives. In doubt it does. The name is no
// secret: one that another user than root and ours took after the run's end is no
// sign of its life.
func Alive(id string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return true, fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, lifeSign(id)); err {
	case nil:
	case unix.ECONNREFUSED, unix.EPROTOTYPE:
		return false, nil
	default:
		return true, nil // its queue is full
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return true, fmt.Errorf("looking who lives: %w", err)
	}
	return peer.Uid == 0 || int(peer.Uid) == os.Geteuid(), nil
}

// ours reports whether the link, as it was read, belongs to this run, or to the
// one that this run takes the place of.
func (h *Host) ours(mark string, l netlink.Link) bool {
	id, marked := strings.CutPrefix(l.Attrs().Alias, mark)
	return marked && (id == h.owner.id || id == h.before && id != "")
}

// mark makes the link this run's.
func (h *Host) mark(mark string, l netlink.Link) error {
	if err := h.nl.LinkSetAlias(l, mark+h.owner.id); err != nil {
		return fmt.Errorf("marking %s as ours: %w", l.Attrs().Name, err)
	}
	l.Attrs().Alias = mark + h.owner.id
	return nil
}

// orphan reports whether the link was marked by a run that is gone.
func (h *Host) orphan(mark string, l netlink.Link) (bool, error) {
	id, marked := strings.CutPrefix(l.Attrs().Alias, mark)
	if !marked || h.ours(mark, l) {
		return false, nil
	}
	lives, err := Alive(id)
	if err != nil {
		return false, fmt.Errorf("looking for the owner of %s: %w", l.Attrs().Name, err)
	}
	return !lives, nil
}

// adopt makes a link ours that belongs to a run which crashed. That of a run
// which lives is one that was found.
func (h *Host) adopt(mark string, l netlink.Link) error {
	orphan, err := h.orphan(mark, l)
	if err != nil {
		return err
	}
	if orphan || mark == bridgeMark && h.intended(l) {
		return h.mark(mark, l)
	}
	return nil
}

// intended reports whether a run that crashed was about to make the bridge, which
// did not exist, and died before it could mark it.
func (h *Host) intended(bridge netlink.Link) bool {
	s := Step{Do: removeBridge, Link: bridge.Attrs().Name}
	i, ok := h.done[s.what()]
	return ok && h.undo[i].inherited && h.undo[i].Index == 0 && bridge.Attrs().Alias == ""
}
