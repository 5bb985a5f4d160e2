package uplink

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunnelDrivers are the drivers of devices that take an unsegmented GSO packet as it
// comes from a TAP. Drivers of NICs that call vxlan_features_check do not,
// whatever their features say, since the inner Ethernet header is not marked
// in it (virtio_net_hdr_tnl_to_skb): the stack would cut and sum it for them,
// which is no better than what the path does, and then send every packet
// alone where the socket's way sends runs.
var tunnelDrivers = []string{"veth", "virtio_net"}

// TunnelFeature is the kernel's name of NETIF_F_GSO_UDP_TUNNEL_CSUM.
var TunnelFeature = "tx-udp_tnl-csum-segmentation"

// devices decides by which devices GSO packets leave unsegmented. The program
// asks about devices that it meets; the answers are looked at once a tick.
type devices struct {
	control int // a socket of the namespace
	feature int // bit of TunnelFeature, by this kernel's count
	known   [maxDevices]device
	oldest  int // of known, the next to be forgotten
}

type device struct {
	index  int
	name   string
	refuse string // why not; "" = it may
}

// maxDevices bounds the underlay devices at work: more than two are rare.
const maxDevices = 8

func openDevices() (d devices, err error) {
	if d.control, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return d, fmt.Errorf("open a socket to look at devices: %w", err)
	}
	if d.feature, err = d.featureBit("lo", TunnelFeature); err != nil {
		unix.Close(d.control)
		return d, fmt.Errorf("look for the device feature %s: %w", TunnelFeature, err)
	}
	return d, nil
}

// look brings up to date what is known of the devices, with one more that was
// asked about (0 = none), and returns the indexes of those that may.
func (d *devices) look(asked int, only string) (allowed [maxDevices]uint32) {
	if asked != 0 && !slices.ContainsFunc(d.known[:], func(k device) bool { return k.index == asked }) {
		d.known[d.oldest] = device{index: asked}
		d.oldest = (d.oldest + 1) % maxDevices
	}
	for i := range d.known {
		k := &d.known[i]
		if k.index == 0 {
			continue
		}
		k.refuse = ""
		var err error
		switch k.name, err = d.nameOf(k.index); {
		case err != nil:
			*k = device{} // it is gone
			continue
		case only != "" && k.name != only:
			k.refuse = "it is not the underlay's device"
		default:
			k.refuse = d.judge(k.name)
		}
		if k.refuse == "" {
			allowed[i] = uint32(k.index)
		}
	}
	return allowed
}

// judge says why GSO packets do not leave unsegmented by the device, "" if they do.
func (d *devices) judge(name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(d.control, name)
	if err != nil {
		return fmt.Sprintf("its driver is unknown: %v", err)
	}
	if driver := unix.ByteSliceToString(info.Driver[:]); !slices.Contains(tunnelDrivers, driver) {
		return fmt.Sprintf("driver %s does not take GSO packets as they come from a TAP", driver)
	}
	on, err := d.hasFeature(name)
	if err != nil {
		return fmt.Sprintf("its features are unknown: %v", err)
	}
	if !on {
		return TunnelFeature + " is off"
	}
	return ""
}

// reason says why no device at work takes GSO packets, "" when one does.
func (d *devices) reason() string {
	var why []string
	for _, k := range d.known {
		switch {
		case k.index == 0:
		case k.refuse == "":
			return ""
		default:
			why = append(why, k.name+": "+k.refuse)
		}
	}
	if len(why) == 0 {
		return "no GSO packet was sent yet"
	}
	return strings.Join(why, "; ")
}

// onlyIndex is what the program of IP-in-IP gets of the device that the
// underlay is bound to: anyDevice when that is none.
func (d *devices) onlyIndex(name string) uint32 {
	if name == "" {
		return anyDevice
	}
	return DeviceIndex(d.control, name)
}

// DeviceIndex returns the index of a device by any socket of its network namespace,
// noDevice when there is none of that name.
func DeviceIndex(control int, name string) uint32 {
	ifr, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(control, unix.SIOCGIFINDEX, ifr) != nil {
		return noDevice
	}
	return ifr.Uint32()
}

func (d *devices) nameOf(index int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(d.control, unix.SIOCGIFNAME, ifr); err != nil {
		return "", err
	}
	return ifr.Name(), nil
}

// featureBit finds the bit of a feature by its name, which is the same for all
// devices: struct ethtool_sset_info, then struct ethtool_gstrings.
func (d *devices) featureBit(device, name string) (int, error) {
	const features, nameLen = 4, 32 // ETH_SS_FEATURES, ETH_GSTRING_LEN
	info := make([]byte, 20)
	binary.NativeEndian.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	binary.NativeEndian.PutUint64(info[8:], 1<<features)
	if err := d.ethtool(device, info); err != nil {
		return 0, err
	}
	count := int(binary.NativeEndian.Uint32(info[16:]))
	names := make([]byte, 12+count*nameLen)
	binary.NativeEndian.PutUint32(names, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(names[4:], features)
	binary.NativeEndian.PutUint32(names[8:], uint32(count))
	if err := d.ethtool(device, names); err != nil {
		return 0, err
	}
	for i := range count {
		if unix.ByteSliceToString(names[12+i*nameLen:][:nameLen]) == name {
			return i, nil
		}
	}
	return 0, unix.ENOENT
}

// hasFeature reports whether TunnelFeature is active: struct ethtool_gfeatures
// has four words for every 32 features, the third of those active.
func (d *devices) hasFeature(device string) (bool, error) {
	blocks := d.feature/32 + 1
	b := make([]byte, 8+16*blocks)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(b[4:], uint32(blocks))
	if err := d.ethtool(device, b); err != nil {
		return false, err
	}
	active := binary.NativeEndian.Uint32(b[8+16*(d.feature/32)+8:])
	return active>>(d.feature%32)&1 != 0, nil
}

// ethtool runs the command whose number begins b.
func (d *devices) ethtool(device string, b []byte) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte // struct ifreq's union has 24 bytes
	}
	copy(req.name[:unix.IFNAMSIZ-1], device)
	req.data = unsafe.Pointer(&b[0])
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.control), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(b)
	if e != 0 {
		return e
	}
	return nil
}
