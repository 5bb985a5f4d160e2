package host

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The marks begin the alias (IFLA_IFALIAS, shown by `ip link`) of the bridges that
// were made here and of the TAPs and TUNs that the engine opened; the id of the run
// that owns the link follows. So a run after a crash knows what the one before
// made, goes on with it, and removes it in its place.
const (
	bridgeMark = "overtap bridge "
	deviceMark = "overtap device "
)

// marked reports whether the link was made by a daemon, this or another.
func marked(l netlink.Link) bool {
	alias := l.Attrs().Alias
	return strings.HasPrefix(alias, bridgeMark) || strings.HasPrefix(alias, deviceMark)
}

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
	if err := unix.Bind(fd, livenessSocket(o.id)); err != nil {
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

// livenessSocket is the name of a run's socket; @ stands for the zero byte of abstract
// names.
func livenessSocket(id string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "@overtap/" + id}
}

// Alive reports whether the run of an id lives. The name is no secret, for it stands in
// the links' aliases: one that another user than root and ours took after the run's end
// is no sign of its life. The kernel is asked who holds it (UNIX_DIAG), so that nothing
// depends on whether the socket takes connections.
func Alive(id string) (bool, error) {
	uids, known, err := holders(livenessSocket(id).Name)
	if err != nil || !known {
		return answers(id)
	}
	return slices.ContainsFunc(uids, func(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }), nil
}

const (
	unixDiagShowName = 1 << 0 // UDIAG_SHOW_NAME, and so on (linux/unix_diag.h)
	unixDiagShowUID  = 1 << 6
	unixDiagListen   = 1 << 10 // of TCP_LISTEN, which stands for unix sockets too
	sizeofUnixDiag   = 16      // struct unix_diag_msg
)

// unixDiagRequest is struct unix_diag_req, for all sockets that listen.
type unixDiagRequest struct{}

// Len implements nl.NetlinkRequestData.
func (unixDiagRequest) Len() int { return 24 }

// Serialize implements nl.NetlinkRequestData.
func (unixDiagRequest) Serialize() []byte {
	b := []byte{unix.AF_UNIX, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, unixDiagListen)
	b = binary.NativeEndian.AppendUint32(b, 0) // any inode
	b = binary.NativeEndian.AppendUint32(b, unixDiagShowName|unixDiagShowUID)
	return append(b, make([]byte, 8)...) // no cookie
}

// holders returns the users who made the sockets of this network namespace that listen
// under a name, in which @ stands for the zero byte. It is not known before Linux 5.3.
func holders(name string) (uids []uint32, known bool, err error) {
	var msgs [][]byte
	for range 4 {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(unixDiagRequest{})
		if msgs, err = req.Execute(unix.NETLINK_SOCK_DIAG, 0); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("asking the kernel for unix sockets: %w", err)
	}
	known = true
	for _, m := range msgs {
		if len(m) < sizeofUnixDiag {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[sizeofUnixDiag:])
		if err != nil {
			return nil, false, fmt.Errorf("reading what the kernel says of unix sockets: %w", err)
		}
		var same, given bool
		var uid uint32
		for _, at := range attrs {
			switch at.Attr.Type {
			case netlink.UNIX_DIAG_NAME:
				same = len(at.Value) == len(name) && at.Value[0] == 0 && string(at.Value[1:]) == name[1:]
			case netlink.UNIX_DIAG_UID:
				if given = len(at.Value) >= 4; given {
					uid = binary.NativeEndian.Uint32(at.Value)
				}
			}
		}
		if same {
			uids = append(uids, uid)
			known = known && given
		}
	}
	return uids, known, nil
}

// answers is Alive for a kernel that does not say who holds a name: it connects. In
// doubt the run lives, as when the queue is full, which any user may see to.
func answers(id string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return true, fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, livenessSocket(id)); err {
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
	made := h.undo.get(s.key())
	return made != nil && made.inherited && made.Index == 0 && bridge.Attrs().Alias == ""
}
