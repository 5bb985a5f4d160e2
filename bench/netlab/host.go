package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one network namespace of a lab: a host, a container or the underlay's
// switch. Its methods may be called from any goroutine. It is of no use after
// its lab's Destroy.
type Host struct {
	lab  *Lab
	name string
	ns   *os.File // the namespace

	mu sync.Mutex
	nl *netlink.Handle // opened by the first use
}

// openHost opens the namespace of that name, which must be whole.
func openHost(l *Lab, name string) (*Host, error) {
	path := filepath.Join(runDir, l.namespace(name))
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat the file system of %s: %w", path, err)
	}
	if s.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("%s is no network namespace but left half built", path)
	}
	return &Host{lab: l, name: name, ns: f}, nil
}

// prepare makes a new namespace ready for use.
func (h *Host) prepare() error {
	for _, s := range [][2]string{
		// Both must be 0: kernel addrconf_dad_begin looks at all and the device.
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv4/ping_group_range", "0 2147483647"},
	} {
		// A kernel without IPv6 is good for tests of IPv4.
		if err := h.Sysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return h.SetUp("lo")
}

func (h *Host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nl != nil {
		h.nl.Close()
		h.nl = nil
	}
	h.ns.Close()
}

// Name returns the host's name in its lab.
func (h *Host) Name() string { return h.name }

// Lab returns the lab the host is in.
func (h *Host) Lab() *Lab { return h.lab }

// Namespace returns the namespace's name, as `ip netns exec` takes it.
func (h *Host) Namespace() string { return h.lab.namespace(h.name) }

// Do runs f on a thread inside the namespace and returns its error. A socket
// that f opens belongs to the namespace for good and may be used anywhere.
// Goroutines that f starts run outside. f must not call testing's FailNow.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", h.Namespace(), err)
		}
		return nil
	}, f)
}

// Netlink returns a route netlink handle of the namespace. It belongs to the
// host: do not close it.
func (h *Host) Netlink() (*netlink.Handle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nl != nil {
		return h.nl, nil
	}
	err := h.Do(func() (err error) {
		h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: open netlink: %w", h.name, err)
	}
	return h.nl, nil
}

// Sysctl writes a value to a key of /proc/sys such as
// net/ipv4/conf/all/arp_notify, as the namespace sees it.
func (h *Host) Sysctl(key, value string) error {
	err := h.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
	})
	if err != nil {
		return fmt.Errorf("host %s: set %s to %s: %w", h.name, key, value, err)
	}
	return nil
}
