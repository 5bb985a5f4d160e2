package netlab

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offload says what an underlay device does for the stack: the three kinds of
// underlay that figures are taken on.
type Offload int

// The kinds of underlay.
const (
	// AllOffloads is a veth as the kernel makes it.
	AllOffloads Offload = iota
	// NoTunnelSegmentation is most NICs of clouds:
	// tx-udp_tnl-segmentation and tx-udp_tnl-csum-segmentation off.
	NoTunnelSegmentation
	// NoOffloads is tso, gso, gro and tx-udp-segmentation off.
	NoOffloads
)

// Offloads lists all kinds.
var Offloads = []Offload{AllOffloads, NoTunnelSegmentation, NoOffloads}

// String names o for tables.
func (o Offload) String() string {
	switch o {
	case AllOffloads:
		return "all offloads"
	case NoTunnelSegmentation:
		return "no tunnel segmentation"
	case NoOffloads:
		return "no offloads"
	}
	return fmt.Sprintf("Offload(%d)", int(o))
}

// SetOffload makes a veth device an underlay device of that kind, whatever it
// was before.
func (h *Host) SetOffload(dev string, o Offload) error {
	tunnel := []string{"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"}
	segment := []string{"tso", "gso", "tx-udp-segmentation"}
	if err := h.SetFeatures(dev, o == AllOffloads, tunnel...); err != nil {
		return err
	}
	if err := h.SetFeatures(dev, o != NoOffloads, segment...); err != nil {
		return err
	}
	// A veth starts without it, and with it would poll (NAPI).
	return h.SetFeatures(dev, false, "gro")
}

// SetFeatures switches features of a device on or off. Names are the kernel's
// (`ethtool -k`, net/ethtool/common.c netdev_features_strings) or the short
// tso, gso and gro of `ethtool -K`. It is an error when the device ends up
// otherwise.
func (h *Host) SetFeatures(dev string, on bool, names ...string) error {
	err := h.Do(func() error {
		e, err := openEthtool(dev)
		if err != nil {
			return err
		}
		defer e.close()
		return e.set(on, names)
	})
	if err != nil {
		return fmt.Errorf("host %s: device %s: switch %s: %w", h.name, dev, strings.Join(names, ", "), err)
	}
	return nil
}

// Features returns the device's features by the kernel's names: on or off.
func (h *Host) Features(dev string) (map[string]bool, error) {
	features := map[string]bool{}
	err := h.Do(func() error {
		e, err := openEthtool(dev)
		if err != nil {
			return err
		}
		defer e.close()
		active, err := e.active()
		for i, name := range e.names {
			if name != "" {
				features[name] = err == nil && active[i]
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: device %s: read features: %w", h.name, dev, err)
	}
	return features, nil
}

// ethtool speaks the SIOCETHTOOL ioctls of one device (linux/ethtool.h). All
// words are in the machine's byte order.
type ethtool struct {
	fd    int
	dev   string
	names []string // of the features, by their bit
}

const (
	ethSSFeatures = 4  // ETH_SS_FEATURES
	ethNameLen    = 32 // ETH_GSTRING_LEN
)

func openEthtool(dev string) (*ethtool, error) {
	if len(dev) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("device name of %d bytes: want at most %d", len(dev), unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	e := &ethtool{fd: fd, dev: dev}
	if err := e.readNames(); err != nil {
		e.close()
		return nil, fmt.Errorf("read the names of features: %w", err)
	}
	return e, nil
}

func (e *ethtool) close() { unix.Close(e.fd) }

// ioctl runs the command in b, whose first word names it.
func (e *ethtool) ioctl(b []byte) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte // struct ifreq's union has 24 bytes
	}
	copy(req.name[:], e.dev)
	req.data = unsafe.Pointer(&b[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return errno
	}
	return nil
}

func words(w ...uint32) []byte {
	var b []byte
	for _, v := range w {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func word(b []byte, i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }

func (e *ethtool) readNames() error {
	// struct ethtool_sset_info: cmd, reserved, mask (8 bytes), count.
	var mask [8]byte
	binary.NativeEndian.PutUint64(mask[:], 1<<ethSSFeatures)
	b := append(words(unix.ETHTOOL_GSSET_INFO, 0), mask[:]...)
	b = append(b, words(0)...)
	if err := e.ioctl(b); err != nil {
		return err
	}
	count := int(word(b, 4))
	// struct ethtool_gstrings: cmd, set, count, names.
	b = append(words(unix.ETHTOOL_GSTRINGS, ethSSFeatures, uint32(count)), make([]byte, count*ethNameLen)...)
	if err := e.ioctl(b); err != nil {
		return err
	}
	for i := range count {
		name := string(b[12+i*ethNameLen:][:ethNameLen])
		name, _, _ = strings.Cut(name, "\x00")
		e.names = append(e.names, name)
	}
	return nil
}

// active returns which features are on, by their bit.
func (e *ethtool) active() ([]bool, error) {
	blocks := (len(e.names) + 31) / 32
	// struct ethtool_gfeatures: cmd, count, blocks of available, requested,
	// active, never_changed.
	b := append(words(unix.ETHTOOL_GFEATURES, uint32(blocks)), make([]byte, blocks*16)...)
	if err := e.ioctl(b); err != nil {
		return nil, err
	}
	on := make([]bool, len(e.names))
	for i := range on {
		on[i] = word(b, 2+i/32*4+2)>>(i%32)&1 != 0
	}
	return on, nil
}

func (e *ethtool) set(on bool, names []string) error {
	bits, err := e.bits(names)
	if err != nil {
		return err
	}
	blocks := (len(e.names) + 31) / 32
	// struct ethtool_sfeatures: cmd, count, blocks of valid, requested.
	w := make([]uint32, 2+2*blocks)
	w[0], w[1] = unix.ETHTOOL_SFEATURES, uint32(blocks)
	for _, i := range bits {
		w[2+i/32*2] |= 1 << (i % 32)
		if on {
			w[2+i/32*2+1] |= 1 << (i % 32)
		}
	}
	if err := e.ioctl(words(w...)); err != nil {
		return err
	}
	active, err := e.active()
	if err != nil {
		return err
	}
	for _, i := range bits {
		if active[i] != on {
			return fmt.Errorf("%s stays %s", e.names[i], onOff(!on))
		}
	}
	return nil
}

// bits returns the bits of the named features.
func (e *ethtool) bits(names []string) ([]int, error) {
	var bits []int
	for _, want := range names {
		match := func(name string) bool { return name == want }
		switch want {
		case "tso": // kernel NETIF_F_ALL_TSO
			match = func(name string) bool {
				return strings.HasPrefix(name, "tx-tcp") && strings.HasSuffix(name, "-segmentation")
			}
		case "gso":
			match = func(name string) bool { return name == "tx-generic-segmentation" }
		case "gro":
			match = func(name string) bool { return name == "rx-gro" }
		}
		if !slices.ContainsFunc(e.names, match) {
			return nil, fmt.Errorf("this kernel has no feature %q", want)
		}
		for i, name := range e.names {
			if match(name) {
				bits = append(bits, i)
			}
		}
	}
	return bits, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
