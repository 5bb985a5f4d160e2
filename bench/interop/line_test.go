package interop

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

// line is an underlay of two sites that does what real ones do: it loses, repeats
// and reorders. It stands in for the kernel's netem, which not every kernel has.
//
//	host a             host line             host b
//	eth0 ──────── left ─ this process ─ right ──────── eth0
type line struct {
	loss, repeat, swap   atomic.Uint64 // of a million frames
	lost, repeated, late atomic.Uint64
	ends                 [2]int // packet sockets: left, right
	stop                 atomic.Bool
	done                 sync.WaitGroup
}

// newLine puts a line between the sites in place of what joins them. Frames pass
// one by one: the devices cut and sum for themselves.
func newLine(t *testing.T, a, b *netlab.Site) *line {
	t.Helper()
	l := &line{}
	host := must[*netlab.Host](t)(a.Host.Lab().AddHost("line"))
	check(t, host.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	check(t, a.Host.DeleteLink(netlab.UnderlayDev)) // and the other end with it
	for i, s := range []*netlab.Site{a, b} {
		dev := []string{"left", "right"}[i]
		check(t, netlab.AddVeth(s.Host, netlab.UnderlayDev, host, dev, 1500))
		check(t, s.Host.SetOffload(netlab.UnderlayDev, netlab.NoOffloads))
		check(t, s.Host.SetFeatures(netlab.UnderlayDev, false, "tx-checksum-ip-generic"))
		check(t, s.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(s.Underlay, 24)))
		check(t, host.Do(func() (err error) {
			l.ends[i], err = openEnd(dev)
			return err
		}))
	}
	random := rand.Uint64()
	t.Logf("the line's seed %d", random)
	for i := range l.ends {
		l.done.Go(func() { l.carry(l.ends[i], l.ends[1-i], rand.New(rand.NewPCG(random, uint64(i)))) })
	}
	t.Cleanup(func() {
		l.stop.Store(true)
		l.done.Wait()
		for _, fd := range l.ends {
			unix.Close(fd)
		}
	})
	return l
}

// openEnd opens a packet socket of the device for what comes in. It wakes up now
// and then, to stop and to let go of a frame that it keeps back.
func openEnd(dev string) (int, error) {
	const everything = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	d, err := net.InterfaceByName(dev)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval((2 * time.Millisecond).Nanoseconds())
	for _, f := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) },
		func() error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv) },
		func() error {
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: d.Index})
		},
	} {
		if err := f(); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// carry moves frames one way. An error is a device that went away, or a full
// queue: the frame is lost, as on any line.
func (l *line) carry(from, to int, random *rand.Rand) {
	buf, kept := make([]byte, 1<<16), []byte(nil)
	happens := func(share *atomic.Uint64) bool { return random.Uint64N(1e6) < share.Load() }
	for !l.stop.Load() {
		n, err := unix.Read(from, buf)
		if err != nil {
			if kept != nil {
				_, _ = unix.Write(to, kept)
				kept = nil
			}
			continue
		}
		frame := buf[:n]
		if happens(&l.loss) {
			l.lost.Add(1)
			continue
		}
		if kept == nil && happens(&l.swap) {
			kept = append([]byte(nil), frame...)
			l.late.Add(1)
			continue
		}
		_, _ = unix.Write(to, frame)
		if happens(&l.repeat) {
			l.repeated.Add(1)
			_, _ = unix.Write(to, frame)
		}
		if kept != nil {
			_, _ = unix.Write(to, kept)
			kept = nil
		}
	}
}
