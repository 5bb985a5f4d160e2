package host

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeMark begins the alias of the bridges that were made here (IFLA_IFALIAS,
// shown by `ip link`); the id of the run that owns the bridge follows. So a run
// after a crash knows what its predecessor made, and removes it in its place.
const bridgeMark = "overtap bridge "

// owner is what this run's bridges are known by, for as long as it lives. A
// socket with an abstract name says so: like a bridge it belongs to the network
// namespace, so that a daemon with other process ids or another file system
// finds it too, and it ends with its process, however that ends.
type owner struct {
	id string
	fd int
}

func newOwner() (owner, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return owner{}, fmt.Errorf("opening the socket that marks this run: %w", err)
	}
	o := owner{id: rand.Text(), fd: fd}
	if err := unix.Bind(fd, lifeSign(o.id)); err != nil {
		unix.Close(fd)
		return owner{}, fmt.Errorf("naming the socket that marks this run: %w", err)
	}
	return o, nil
}

func (o owner) close() { unix.Close(o.fd) }

// lifeSign is the name of a run's socket; @ stands for the zero byte of abstract
// names.
func lifeSign(id string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "@overtap/" + id}
}

// alive reports whether the run of an id lives. In doubt it does.
func alive(id string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true, fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	return unix.Connect(fd, lifeSign(id)) != unix.ECONNREFUSED, nil
}

// ours reports whether the bridge, as it was read, belongs to this run.
func (h *Host) ours(bridge netlink.Link) bool {
	return bridge.Attrs().Alias == bridgeMark+h.owner.id
}

// markBridge makes the bridge this run's.
func (h *Host) markBridge(bridge netlink.Link) error {
	if err := h.nl.LinkSetAlias(bridge, bridgeMark+h.owner.id); err != nil {
		return fmt.Errorf("marking the bridge %s as ours: %w", bridge.Attrs().Name, err)
	}
	bridge.Attrs().Alias = bridgeMark + h.owner.id
	return nil
}

// adoptBridge makes a bridge ours that belongs to a run which crashed. That of
// a run which lives is one that was found.
func (h *Host) adoptBridge(bridge netlink.Link) error {
	id, marked := strings.CutPrefix(bridge.Attrs().Alias, bridgeMark)
	if !marked || h.ours(bridge) {
		return nil
	}
	lives, err := alive(id)
	if err != nil {
		return fmt.Errorf("looking for the owner of the bridge %s: %w", bridge.Attrs().Name, err)
	}
	if lives {
		return nil
	}
	return h.markBridge(bridge)
}
