package dataplane

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunnelDrivers are the drivers of devices that take an uncut superframe as it
// comes from a TAP. Drivers of NICs that call vxlan_features_check do not,
// whatever their features say, since the inner Ethernet header is not marked
// in it (virtio_net_hdr_tnl_to_skb): the stack would cut and sum it for them,
// which is no better than what the road does, and then send every packet
// alone where the socket's way sends runs.
var tunnelDrivers = []string{"veth", "virtio_net"}

// tunnelFeature is the kernel's name of NETIF_F_GSO_UDP_TUNNEL_CSUM.
var tunnelFeature = "tx-udp_tnl-csum-segmentation"

// uplinkDevices decides by which devices superframes leave uncut. The program
// asks about devices that it meets; the answers are looked at once a beat.
type uplinkDevices struct {
	control int // a socket of the namespace
	feature int // bit of tunnelFeature, by this kernel's count
	known   [maxUplinkDevices]uplinkDevice
	oldest  int // of known, the next to be forgotten
}

type uplinkDevice struct {
	index  int
	name   string
	refuse string // why not; "" = it may
}

// maxUplinkDevices bounds the underlay devices at work: more than two are rare.
const maxUplinkDevices = 8

func openUplinkDevices() (d uplinkDevices, err error) {
	if d.control, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return d, fmt.Errorf("open a socket to look at devices: %w", err)
	}
	if d.feature, err = d.featureBit("lo", tunnelFeature); err != nil {
		unix.Close(d.control)
		return d, fmt.Errorf("look for the device feature %s: %w", tunnelFeature, err)
	}
	return d, nil
}

// look brings up to date what is known of the devices, with one more that was
// asked about (0 = none), and returns the indexes of those that may.
func (d *uplinkDevices) look(asked int, only string) (allowed [maxUplinkDevices]uint32) {
	if asked != 0 && !slices.ContainsFunc(d.known[:], func(k uplinkDevice) bool { return k.index == asked }) {
		d.known[d.oldest] = uplinkDevice{index: asked}
		d.oldest = (d.oldest + 1) % maxUplinkDevices
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
			*k = uplinkDevice{} // it is gone
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

// judge says why superframes do not leave uncut by the device, "" if they do.
func (d *uplinkDevices) judge(name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(d.control, name)
	if err != nil {
		return fmt.Sprintf("its driver is unknown: %v", err)
	}
	if driver := unix.ByteSliceToString(info.Driver[:]); !slices.Contains(tunnelDrivers, driver) {
		return fmt.Sprintf("driver %s does not take superframes as they come from a TAP", driver)
	}
	on, err := d.hasFeature(name)
	if err != nil {
		return fmt.Sprintf("its features are unknown: %v", err)
	}
	if !on {
		return tunnelFeature + " is off"
	}
	return ""
}

// reason says why no device at work takes superframes, "" when one does.
func (d *uplinkDevices) reason() string {
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
		return "no superframe was sent yet"
	}
	return strings.Join(why, "; ")
}

// onlyIndex is what the program of IP-in-IP is told of the device that the
// underlay is bound to: anyDevice when that is none.
func (d *uplinkDevices) onlyIndex(name string) uint32 {
	if name == "" {
		return anyDevice
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(d.control, unix.SIOCGIFINDEX, ifr) != nil {
		return noDevice
	}
	return ifr.Uint32()
}

func (d *uplinkDevices) nameOf(index int) (string, error) {
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
func (d *uplinkDevices) featureBit(device, name string) (int, error) {
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

// hasFeature reports whether tunnelFeature is active: struct ethtool_gfeatures
// has four words for every 32 features, the third of those active.
func (d *uplinkDevices) hasFeature(device string) (bool, error) {
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
func (d *uplinkDevices) ethtool(device string, b []byte) error {
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
