package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

var vmRSS = regexp.MustCompile(`VmRSS:\s*(\d+) kB`)

// rss returns the daemon's resident memory in KiB.
func (d *daemon) rss() int {
	d.t.Helper()
	text := must[[]byte](d.t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)))
	m := vmRSS.FindSubmatch(text)
	if m == nil {
		d.t.Fatalf("no VmRSS in\n%s", text)
	}
	return must[int](d.t)(strconv.Atoi(string(m[1])))
}

// kernelMemory returns what the kernel has taken and will not give back when asked,
// in KiB: of the whole machine, since no count of it by process is complete. Rings
// and queues of a device, its statistics, bridges' tables and page tables are here.
func kernelMemory(t testing.TB) (kib int) {
	t.Helper()
	text := must[[]byte](t)(os.ReadFile("/proc/meminfo"))
	for _, key := range []string{"SUnreclaim", "Percpu", "PageTables", "VmallocUsed"} {
		m := regexp.MustCompile(`(?m)^` + key + `:\s*(\d+) kB$`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in\n%s", key, text)
		}
		kib += must[int](t)(strconv.Atoi(string(m[1])))
	}
	return kib
}

// kernelGrowth returns how much more the kernel has than before, in KiB. While it is
// above the limit it is looked at again for a while: what others on this machine took
// meanwhile they mostly give back.
func kernelGrowth(t testing.TB, before, limit int) (kib int) {
	t.Helper()
	kib = kernelMemory(t) - before
	for range 40 {
		if kib <= limit {
			break
		}
		time.Sleep(250 * time.Millisecond)
		kib = min(kib, kernelMemory(t)-before)
	}
	t.Logf("the kernel's: %d KiB", kib)
	return kib
}

// kernelNoise is what the rest of the machine may take from the kernel during a
// test, in KiB.
const kernelNoise = 16 << 10

// A network takes less than 1.5 MiB of all memory, the kernel's included, and what
// it took is given back.
func TestMemoryOfANetwork(t *testing.T) {
	const (
		networks = 100
		limit    = 1536 // KiB
	)
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	// The machine is not ours alone: of several measurements the least is that with
	// the least of others' in it.
	least, kept := math.MaxInt, math.MaxInt
	for range 3 {
		before := kernelMemory(t)
		d := start(t, a.Host, at(a, many(b, networks, true)...))
		with, rss := kernelMemory(t), d.rss()
		d.stop(syscall.SIGTERM)
		after := kernelMemory(t)
		kernel := with - max(before, after)
		t.Logf("each of %d networks: %d KiB of the kernel's, %d KiB resident", networks, kernel/networks, rss/networks)
		least, kept = min(least, (kernel+rss)/networks), min(kept, after-before)
		if least < limit && kept < kernelNoise {
			break
		}
	}
	if least >= limit && !raceEnabled {
		t.Errorf("a network takes %d KiB, want less than %d", least, limit)
	}
	if kept >= kernelNoise {
		t.Errorf("the kernel keeps %d KiB after the end", kept)
	}
}

// One network with ten thousand learned entries, after traffic that has touched
// every buffer, takes no more than 64 MiB, and of the kernel's memory no more than
// 32 MiB: the bridge learns the entries too.
func TestMemoryOfTenThousandEntries(t *testing.T) {
	const (
		stations = 10000
		first    = encap.MAC(0x0242_0100_0000)
		limit    = 64 << 10 // KiB
		kernel   = 32<<10 + kernelNoise
	)
	before := kernelMemory(t)
	d, a, b := pair(t)
	exchange(t, a, b, 16<<20)

	mouth := openRaw(t, b.Container, netlab.ContainerDev)
	missing := make(map[encap.MAC]bool, stations)
	for i := range stations {
		missing[first+encap.MAC(i)] = true
	}
	// A queue may overflow on a busy machine: what was lost is sent again.
	eventually(t, "every station is learned", func() error {
		sent := 0
		for mac := range missing {
			mouth.send(ethernet(a.MAC, mac, nil, etherTest, marked(46, "")))
			if sent++; sent%100 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		for _, e := range d.fdb() {
			if e.Origin == "learned" && e.Peer == b.Underlay {
				delete(missing, e.MAC)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d are not", len(missing))
		}
		return nil
	})
	mouth.close()
	if n := d.status().Networks[0]; n.Entries < stations || n.EntriesLearned < stations || n.Entries > stations+100 {
		t.Errorf("%d entries, %d of them learned, want %d and a few", n.Entries, n.EntriesLearned, stations)
	}
	exchange(t, a, b, 16<<20)
	got := d.rss()
	t.Logf("resident: %d KiB", got)
	if got > limit && !raceEnabled {
		t.Errorf("%d KiB are resident, want at most %d", got, limit)
	}
	if grown := kernelGrowth(t, before, kernel); grown > kernel {
		t.Errorf("the kernel took %d KiB, want at most %d", grown, kernel)
	}
}

// A million learned entries, sent by a peer as fast as it can, take no more than
// 160 MiB, with all else the daemon has, and as many entries of the bridge no more
// than 256 MiB of the kernel's.
func TestMemoryOfAMillionEntries(t *testing.T) {
	const (
		stations = 1_000_000
		first    = encap.MAC(0x0242_0200_0000)
		limit    = 160 << 10 // KiB
		kernel   = 256<<10 + kernelNoise
		run      = 64     // datagrams of one UDP_SEGMENT
		each     = 8 + 60 // bytes: a VXLAN header and a frame
	)
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	before := kernelMemory(t)
	d := start(t, a.Host, at(a, blue(a, sites...).with(fmt.Sprintf("max_entries = %d", 1<<20))))
	fd := -1
	check(t, b.Host.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, each),
			unix.Connect(fd, &unix.SockaddrInet4{Port: 4789, Addr: a.Underlay.As4()}))
	}))
	defer unix.Close(fd)

	// The frames are for a station that the bridge knows, so that they end there.
	buffer := make([]byte, run*each)
	for i := range run {
		encap.PutVXLAN(buffer[i*each:], 100)
		f := buffer[i*each+8:]
		a.MAC.Put(f)
		binary.BigEndian.PutUint16(f[12:], etherTest)
	}
	reaches(t, a.Host, b.Underlay)
	learned := func() int { return d.status().Networks[0].EntriesLearned }
	for deadline := time.Now().Add(3 * time.Minute); learned() < stations; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d stations are learned", learned(), stations)
		}
		// What a full queue lost is sent again.
		for at := 0; at < stations; at += run {
			for i := range run {
				(first + encap.MAC(at+i)).Put(buffer[i*each+8+encap.MACLen:])
			}
			if _, err := unix.Write(fd, buffer); err != nil {
				t.Fatal(err)
			}
			if at%(run*16) == 0 {
				time.Sleep(500 * time.Microsecond)
			}
		}
	}
	got := d.rss()
	t.Logf("resident: %d KiB", got)
	if got > limit && !raceEnabled {
		t.Errorf("%d KiB are resident, want at most %d", got, limit)
	}
	if grown := kernelGrowth(t, before, kernel); grown > kernel {
		t.Errorf("the kernel took %d KiB, want at most %d", grown, kernel)
	}
}
