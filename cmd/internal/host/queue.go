package host

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The ring of each queue of a TAP or TUN, in frames (tun_queue_resize). The tun
// driver drops silently at a full ring, and its default of 500 is a fraction of one
// batch of GSO packets. Powers of two, to which the kernel rounds a ring's memory:
// 8 bytes a frame, so that all rings of a device take at most 512 KiB.
const (
	maxRing  = 8192
	minRing  = 1024
	allRings = 65536
)

// ringLength is the length of each ring of a device with so many queues.
func ringLength(queues int) int {
	share := allRings / max(queues, 1)
	return min(max(1<<(bits.Len(uint(share))-1), minRing), maxRing)
}

// queue gives a TAP or TUN the queueing discipline noqueue and a long ring.
//
// A multi-queue TAP has 256 transmit queues however many are open (MAX_TAP_QUEUES
// of drivers/net/tun.c), and the default disciplines of each have three arrays of
// the ring's length (pfifo_fast_init): 96 MiB a device. They would never hold a
// frame, since the driver stops no queue. It is done while the device is down: the
// first time it comes up the kernel makes the default ones (attach_default_qdiscs).
// A device that an earlier daemon left with them gets rid of them here too.
func (h *Host) queue(l netlink.Link, p *pass) error {
	length := ringLength(1)
	if t, ok := l.(*netlink.Tuntap); ok {
		length = ringLength(t.Queues)
	}
	if p.was.tap != l.Attrs().Index {
		switch err := h.noQueue(l); {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
			// A kernel without CONFIG_NET_SCHED has the default discipline only.
			h.log.Debug("the kernel has no noqueue: the device keeps its own queue length", "device", l.Attrs().Name, "err", err)
			p.now.ownQueue = true
		case err != nil:
			return fmt.Errorf("setting the queueing discipline of %s to noqueue: %w", l.Attrs().Name, err)
		}
	}
	if p.now.ownQueue || l.Attrs().TxQLen == length {
		return nil
	}
	if err := h.nl.LinkSetTxQLen(l, length); err != nil {
		return fmt.Errorf("setting the queue length of %s to %d: %w", l.Attrs().Name, length, err)
	}
	p.did("the queue length of %s", l.Attrs().Name)
	return nil
}

// noQueue makes noqueue the root discipline of a link that has the kernel's default
// one, which alone has no handle. One that was set by hand stays, ours among them.
func (h *Host) noQueue(l netlink.Link) error {
	handle, err := h.rootHandle(l.Attrs().Index)
	if err != nil || handle != 0 {
		return err
	}
	return h.nl.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "noqueue",
	})
}

// rootHandle returns the handle of a link's root discipline. That of a default one
// is 0.
func (h *Host) rootHandle(index int) (uint32, error) {
	req := h.request(unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO) // without ECHO the answer goes to listeners alone (rtnetlink_send)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: netlink.HANDLE_ROOT})
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
	if errors.Is(err, unix.EINVAL) {
		return 0, nil // noop of a link that was never up, which is not shown (tc_qdisc_dump_ignore)
	}
	if err != nil || len(msgs) == 0 {
		return 0, err
	}
	return nl.DeserializeTcMsg(msgs[0]).Handle, nil
}
