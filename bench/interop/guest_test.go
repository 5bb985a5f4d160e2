package interop

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/guest"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic/echo"
)

// foreign is the kernel of a guest as the other end of a tunnel, with an echo
// service.
type foreign struct {
	t testing.TB
	g *guest.Guest
}

// newForeign joins the guest to a host by an underlay of an MTU of 1500: the
// host has the first underlay addresses, the guest the second.
func newForeign(t testing.TB, h *netlab.Host) *foreign {
	t.Helper()
	f := joinForeign(t, h, netlab.UnderlayDev, 1500)
	for _, v6 := range []bool{false, true} {
		bits := map[bool]int{false: 24, true: 64}[v6]
		check(t, h.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(netlab.UnderlayAddr(1, v6), bits)))
		f.addr(guest.Dev, netip.PrefixFrom(netlab.UnderlayAddr(2, v6), bits))
	}
	return f
}

// joinForeign joins the guest to a host's device, without addresses.
func joinForeign(t testing.TB, h *netlab.Host, dev string, mtu int) *foreign {
	t.Helper()
	f := &foreign{t, netlabtest.Guest(t)}
	ours := strings.TrimSpace(string(must[[]byte](t)(os.ReadFile("/proc/sys/kernel/osrelease"))))
	if theirs := strings.TrimSpace(f.run("uname -r")); theirs == ours {
		t.Fatalf("the guest runs %s, as this machine does: want another kernel", theirs)
	}
	check(t, f.g.Join(f.limit(), h, dev, mtu))
	f.background("end echo", "/tmp/echo")
	return f
}

// limit bounds what the guest is asked to do, which takes its time in an emulated
// machine.
func (f *foreign) limit() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*patience)
	f.t.Cleanup(cancel)
	return ctx
}

func (f *foreign) run(format string, args ...any) string {
	f.t.Helper()
	return must[string](f.t)(f.g.Run(f.limit(), fmt.Sprintf(format, args...)))
}

func (f *foreign) addr(dev string, p netip.Prefix) {
	f.t.Helper()
	check(f.t, f.g.AddAddr(f.limit(), dev, p))
}

// background starts a program that prints ready, and prints to a file.
func (f *foreign) background(command, file string) {
	f.t.Helper()
	f.run("%s >%s 2>&1 &", command, file)
	eventually(f.t, command, func() error {
		if out := f.run("cat %s", file); !strings.HasPrefix(out, "ready\n") {
			return fmt.Errorf("it prints %q", out)
		}
		return nil
	})
}

// capture has the guest keep what comes in by a device, and returns a function
// that waits for that many packets and returns them.
func (f *foreign) capture(dev string, count int) func() [][]byte {
	f.t.Helper()
	file := "/tmp/capture-" + dev
	f.background(fmt.Sprintf("end capture %s %d", dev, count), file)
	return func() (packets [][]byte) {
		f.t.Helper()
		var lines []string
		eventually(f.t, "a capture", func() error {
			lines = strings.Split(strings.TrimSpace(f.run("cat %s", file)), "\n")[1:]
			if len(lines) < count {
				return fmt.Errorf("%d packets of %d", len(lines), count)
			}
			return nil
		})
		for _, line := range lines {
			packets = append(packets, must[[]byte](f.t)(hex.DecodeString(line)))
		}
		return packets
	}
}

// sums are the guest's counters of what had a wrong checksum.
func (f *foreign) sums() string {
	f.t.Helper()
	out := f.run(`cat /proc/net/snmp | while read -r proto names && read -r proto values; do
		set -- $values
		for n in $names; do case $n in *CsumErrors|InHdrErrors) echo "$proto$n $1";; esac; shift; done
	done
	grep CsumErrors /proc/net/snmp6`)
	if strings.Count(out, "CsumErrors") < 5 {
		f.t.Fatalf("no counters in %q", out)
	}
	return out
}

// dial connects from a host.
func dial[C net.Conn](t testing.TB, h *netlab.Host, network string, to netip.Addr) (c C) {
	t.Helper()
	check(t, h.Do(func() error {
		conn, err := net.DialTimeout(network, netip.AddrPortFrom(to, echo.Port).String(), patience)
		if err == nil {
			c = conn.(C)
			t.Cleanup(func() { conn.Close() })
		}
		return err
	}))
	return c
}

// echoAt has a host answer at an address.
func echoAt(t testing.TB, h *netlab.Host, at netip.Addr) {
	t.Helper()
	to := netip.AddrPortFrom(at, echo.Port)
	var l *net.TCPListener
	var p *net.UDPConn
	check(t, h.Do(func() (err error) {
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(to)); err == nil {
			p, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to))
		}
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- echo.Serve(ctx, l, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("echo service of host %s: %v", h.Name(), err)
		}
	})
}

// exchange sends every kind of traffic between a host and the guest, begun at
// each end, and wants all of it back as it was. Packets of mtu bytes fit. The
// host answers at the address already.
func (f *foreign) exchange(h *netlab.Host, at, guest netip.Addr, mtu int, tcp int64) {
	f.t.Helper()
	most := mtu - 28
	if at.Is6() {
		most = mtu - 48
	}
	for _, o := range []netlab.PingOptions{{Count: 3}, {Count: 3, Size: most, DF: true}} {
		o.Timeout = patience
		r := must[netlab.PingResult](f.t)(netlab.Ping(h, guest, o))
		if r.Received != r.Sent || r.Duplicates+r.Corrupted+r.Errors > 0 {
			f.t.Fatalf("ping the guest at %v, %+v: %v", guest, o, r)
		}
	}
	for _, size := range []int{56, most} {
		// Answers that are lost, doubled or damaged are known by ping's words.
		out := f.run("ping -c 3 -i 0.1 -W %d -s %d %v", int(patience.Seconds()), size, at)
		if !strings.Contains(out, "3 packets transmitted, 3 packets received, 0% packet loss") || strings.Contains(out, "DUP") {
			f.t.Fatalf("the guest pings %v: %s", at, out)
		}
	}
	check(f.t, echo.Stream(f.limit(), dial[*net.TCPConn](f.t, h, "tcp", guest), tcp))
	f.run("end stream %v %d", at, tcp)
	for _, o := range []echo.DatagramOptions{
		{Size: 64, Count: 128}, {Size: most, Count: 128}, {Size: 3*most + 1, Count: 16}, {Size: most, Count: 64, Segment: true},
		{Size: 700, Count: 60, Segment: true},
	} {
		check(f.t, echo.Datagrams(f.limit(), dial[*net.UDPConn](f.t, h, "udp", guest), o))
		if !o.Segment {
			f.run("end datagrams %v %d %d", at, o.Size, o.Count)
		}
	}
}

// refusedSums is what a container counts of wrong checksums.
func refusedSums(t testing.TB, h *netlab.Host) error {
	t.Helper()
	var errs []error
	for _, proto := range []string{"Icmp", "Tcp", "Udp"} {
		if n := snmp(t, h, proto, "InCsumErrors"); n != "0" {
			errs = append(errs, fmt.Errorf("%s InCsumErrors %s", proto, n))
		}
	}
	return errors.Join(errs...)
}
