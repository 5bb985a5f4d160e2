package dataplane_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
	"overtap/encap"
)

const steerQueues = 4

// steerBed is a device of several queues, and a socket that sends out of it.
type steerBed struct {
	queues []netio.Device
	socket int
	tun    bool
}

func newSteerBed(t *testing.T, tun, steer bool) *steerBed {
	t.Helper()
	h, err := netlabtest.New(t).AddHost("a")
	if err != nil {
		t.Fatal(err)
	}
	b := &steerBed{socket: -1, tun: tun}
	t.Cleanup(func() {
		for _, q := range b.queues {
			q.Close()
		}
		if b.socket >= 0 {
			unix.Close(b.socket)
		}
	})
	err = h.Do(func() (err error) {
		b.queues, err = linux.OpenQueues(netio.DeviceSpec{
			Name: "q0", TUN: tun, MAC: macA, MTU: 1450, Queues: steerQueues,
		}, steer)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp("q0"); err != nil {
		t.Fatal(err)
	}
	h.Do(func() error {
		if b.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
			return err
		}
		ifr, _ := unix.NewIfreq("q0")
		if err = unix.IoctlIfreq(b.socket, unix.SIOCGIFINDEX, ifr); err == nil {
			err = unix.Bind(b.socket, &unix.SockaddrLinklayer{Ifindex: int(ifr.Uint32())})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.drain(t) // what the kernel says of itself when a device comes up
	return b
}

func (b *steerBed) drain(t *testing.T) {
	for _, q := range b.queues {
		batch := netio.NewFrameBatch(64, 512<<10)
		if err := q.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
	}
}

// queueOf sends the frame out of the device and returns the queue it came to.
func (b *steerBed) queueOf(t *testing.T, frame []byte) int {
	t.Helper()
	if b.tun {
		frame = frame[encap.EthernetHeaderLen:]
	}
	if _, err := unix.Write(b.socket, frame); err != nil {
		t.Fatal(err)
	}
	for i, q := range b.queues {
		batch := netio.NewFrameBatch(64, 512<<10)
		if err := q.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
		for _, f := range batch.Frames() {
			if string(f.Data) == string(frame) {
				return i
			}
		}
	}
	t.Fatal("the frame came to no queue")
	return 0
}

// answer writes the other direction of the frame's flow to the queue.
func (b *steerBed) answer(t *testing.T, queue int, frame []byte) {
	t.Helper()
	frame = append([]byte(nil), frame...)
	swap := func(at, n int) {
		for i := range n {
			frame[at+i], frame[at+n+i] = frame[at+n+i], frame[at+i]
		}
	}
	swap(0, encap.MACLen)
	if binary.BigEndian.Uint16(frame[12:]) == encap.EtherTypeIPv4 {
		swap(26, 4)
		swap(34, 2)
	} else {
		swap(22, 16)
		swap(54, 2)
	}
	if b.tun {
		frame = frame[encap.EthernetHeaderLen:]
	}
	out := []netio.OutFrame{{Parts: [][]byte{frame}}}
	if b.queues[queue].WriteBatch(out) != 0 {
		t.Fatal(out[0].Errno)
	}
}

// steerFlow is a frame of the n-th flow.
func steerFlow(v6 bool, proto uint8, n int) []byte {
	f := make([]byte, 14+40+20+10)
	macB.Put(f)
	macA.Put(f[6:])
	if v6 {
		binary.BigEndian.PutUint16(f[12:], encap.EtherTypeIPv6)
		ip := f[14:]
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		copy(ip[8:], "\x20\x01\x0d\xb8")
		copy(ip[24:], "\x20\x01\x0d\xb8")
		ip[23], ip[39] = 1, 2
		binary.BigEndian.PutUint16(ip[40:], uint16(40000+n))
		binary.BigEndian.PutUint16(ip[42:], 80)
		ip[52] = 5 << 4
		return f
	}
	binary.BigEndian.PutUint16(f[12:], encap.EtherTypeIPv4)
	ip := f[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], "\xc6\x33\x64\x01\xc6\x33\x64\x02")
	binary.BigEndian.PutUint16(ip[20:], uint16(40000+n))
	binary.BigEndian.PutUint16(ip[22:], 80)
	ip[32] = 5 << 4
	return f
}

// A flow stays with its queue, whichever queue its answers are written to, and
// many flows use all queues.
func TestFlowKeepsItsQueue(t *testing.T) {
	const flows = 64
	for _, tun := range []bool{false, true} {
		for _, v6 := range []bool{false, true} {
			for _, proto := range []uint8{encap.ProtoTCP, encap.ProtoUDP} {
				t.Run(fmt.Sprintf("tun %v, IPv6 %v, protocol %d", tun, v6, proto), func(t *testing.T) {
					b := newSteerBed(t, tun, true)
					var used [steerQueues]int
					for n := range flows {
						f := steerFlow(v6, proto, n)
						at := b.queueOf(t, f)
						used[at]++
						for q := range b.queues {
							b.answer(t, q, f)
							if now := b.queueOf(t, f); now != at {
								t.Fatalf("flow %d went from queue %d to %d after an answer by queue %d", n, at, now, q)
							}
						}
					}
					for q, n := range used {
						if n < flows/steerQueues/4 {
							t.Errorf("%d of %d flows use queue %d", n, flows, q)
						}
					}
				})
			}
		}
	}
}

// Without the program the kernel moves flows: what TestFlowKeepsItsQueue looks
// for can be seen.
func TestKernelMovesFlows(t *testing.T) {
	b := newSteerBed(t, false, false)
	f := steerFlow(false, encap.ProtoUDP, 1)
	at := b.queueOf(t, f)
	for q := range b.queues {
		b.answer(t, q, f)
		if b.queueOf(t, f) != at {
			return
		}
	}
	t.Error("the flow stayed")
}

// All fragments of a datagram come to one queue, and what is cut short or not IP
// comes to some.
func TestSteeringOddFrames(t *testing.T) {
	b := newSteerBed(t, false, true)
	for n := range 16 {
		first := steerFlow(false, encap.ProtoUDP, n)
		first[20] = 0x20 // more fragments
		rest := steerFlow(false, encap.ProtoUDP, n+100)
		rest[21] = 5 // an offset
		if a, c := b.queueOf(t, first), b.queueOf(t, rest); a != c {
			t.Errorf("the first fragment came to queue %d, another to %d", a, c)
		}
	}
	for _, f := range [][]byte{
		steerFlow(false, encap.ProtoTCP, 1)[:14],
		steerFlow(false, encap.ProtoTCP, 1)[:14+18],
		steerFlow(false, encap.ProtoTCP, 1)[:14+21],
		steerFlow(true, encap.ProtoTCP, 1)[:14+30],
		steerFlow(true, encap.ProtoTCP, 1)[:14+41],
		append(append([]byte(nil), first12()...), 0x08, 0x06, 1, 2, 3),
	} {
		b.queueOf(t, f)
	}
}

func first12() []byte { return steerFlow(false, encap.ProtoTCP, 1)[:12] }
