package interop

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

// A daemon that gets SIGTERM while everything is busy ends in order.
func TestEndsDuringTraffic(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			d, a, b := pair(t)
			reaches(t, a.Container, b.IPv4)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			var busy sync.WaitGroup
			for _, f := range flows(a, b) {
				busy.Go(func() {
					// They break off when the daemon has gone.
					_, _ = traffic.TCP(ctx, f.from, f.to, traffic.TCPOptions{Duration: patience})
				})
				busy.Go(func() {
					_, _ = traffic.UDP(ctx, f.from, f.to, traffic.UDPOptions{Duration: patience})
				})
			}
			// In full swing, whatever the machine does besides.
			eventually(t, "traffic each way", func() error {
				n := d.stats().Networks[0]
				if n.TxPackets < 20000 || n.RxPackets < 20000 {
					return fmt.Errorf("%+v", n)
				}
				return nil
			})
			d.stop(sig)
			cancel()
			busy.Wait()
		})
	}
}

// A daemon that dies with no chance to clean up leaves its TAP and its bridge; the
// next one takes them over, and removes them in its place, also when another user has
// taken the name by which a daemon that lives is known, and lets no one connect to it.
func TestStartsAfterCrash(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	n := blue(a, sites...).with(`addresses = ["198.51.100.101/24"]`)
	n.bridge = "br-blue"
	conf := at(a, n)
	file, socket := prepare(t, conf)
	d := startFile(t, a.Host, conf, file, socket)
	made := d.made
	if want := []string{"vx-blue", "br-blue"}; !slices.Equal(made, want) {
		t.Fatalf("the daemon was to make %v, want %v", made, want)
	}
	check(t, a.Host.SetMaster("a1", "br-blue"))
	reaches(t, b.Container, a.IPv4)
	for range 2 {
		d.kill()
		for _, dev := range made {
			if gone(a.Host, dev) == nil {
				t.Fatalf("%s is gone without anybody removing it", dev)
			}
		}
		takeLifeSign(t, a.Host, made[0])
		d = startFile(t, a.Host, conf, file, socket)
		d.made = made
		reaches(t, b.Container, a.IPv4)
		reaches(t, a.Host, b.IPv4)
	}
	exchange(t, a, b, 1<<20)
}

// A daemon that gets SIGTERM while another is about to take over, and says nothing,
// answers what is asked of it, cuts that one off and removes what it made.
func TestEndsDuringHandOver(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	n := blue(a, sites...)
	n.bridge = "br-blue"
	conf := at(a, n)
	file, socket := prepare(t, conf)
	d := startFile(t, a.Host, conf, file, socket)
	asksToTakeOver(t, socket)
	eventually(t, "the hand-over begins", func() error {
		if !strings.Contains(d.log.String(), "another daemon is about to take over") {
			return errors.New("the log does not say so")
		}
		return nil
	})
	const soon = 5 * time.Second // the stalled one would be waited for 20 s, the shutdown cut off after 15
	begun := time.Now()
	d.verb("status")
	if took := time.Since(begun); took > soon {
		t.Errorf("status took %v", took)
	}
	// A second one is refused, and does not wait.
	second := asksToTakeOver(t, socket)
	if !strings.Contains(second(), "another daemon is about to take over: try again") {
		t.Errorf("a second successor was not refused")
	}
	begun = time.Now()
	d.stop(syscall.SIGTERM)
	if took := time.Since(begun); took > soon {
		t.Errorf("it took %v to end", took)
	}
	for _, dev := range []string{"vx-blue", "br-blue"} {
		if gone(a.Host, dev) != nil {
			t.Errorf("%s is left", dev)
		}
	}
	for _, path := range []string{socket, socket + ".journal"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// asksToTakeOver begins a hand-over as a daemon that starts does, by a connection that
// ends with the test; answer reads the daemon's first message.
func asksToTakeOver(t *testing.T, socket string) (answer func() string) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	check(t, c.SetDeadline(time.Now().Add(patience)))
	body := `{"format":1,"version":"a test"}`
	_, err = fmt.Fprintf(c, "POST /v1/takeover HTTP/1.1\r\nHost: overtap\r\nConnection: Upgrade\r\nUpgrade: overtap-takeover\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	check(t, err)
	in := bufio.NewReader(c)
	resp := must[*http.Response](t)(http.ReadResponse(in, nil))
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the daemon answers %s", resp.Status)
	}
	begin := `{"kind":"begin"}`
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(begin))), begin...))
	check(t, err)
	return func() string {
		var length [4]byte
		_, err := io.ReadFull(in, length[:])
		check(t, err)
		text := make([]byte, binary.BigEndian.Uint32(length[:]))
		_, err = io.ReadFull(in, text)
		check(t, err)
		return string(text)
	}
}

// takeLifeSign binds the name in the device's alias by a socket of another user, whose
// queue is full.
func takeLifeSign(t *testing.T, h *netlab.Host, dev string) {
	t.Helper()
	link := must[netlink.Link](t)(must[*netlink.Handle](t)(h.Netlink()).LinkByName(dev))
	id, ok := strings.CutPrefix(link.Attrs().Alias, "overtap device ")
	if !ok {
		t.Fatalf("the alias of %s is %q", dev, link.Attrs().Alias)
	}
	name := &unix.SockaddrUnix{Name: "@overtap/" + id}
	check(t, h.Do(func() error {
		open := func() int {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err == nil {
				t.Cleanup(func() { unix.Close(fd) })
			}
			return fd // -1 fails below
		}
		fd := open()
		// The owner of the file is that of the socket (sockfs_setattr).
		if err := errors.Join(unix.Fchown(fd, 65534, 65534), unix.Bind(fd, name), unix.Listen(fd, 0)); err != nil {
			return err
		}
		for {
			switch err := unix.Connect(open(), name); err {
			case nil:
			case unix.EAGAIN:
				return nil
			default:
				return err
			}
		}
	}))
}
