package interop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
)

// hostFaults are what befalls the underlay, the peer, this host and the daemon.
var hostFaults = []fault{
	{name: "underlay loss 1 %", build: overLine, sites: 2, loss: 0.15, quiet: true, strike: func(s *scene) {
		s.impair(&s.line.loss, 10_000, &s.line.lost)
	}},
	{name: "duplication", build: overLine, sites: 2, quiet: true, strike: func(s *scene) {
		s.impair(&s.line.repeat, 50_000, &s.line.repeated)
	}},
	{name: "reordering", build: overLine, sites: 2, quiet: true, strike: func(s *scene) {
		s.impair(&s.line.swap, 100_000, &s.line.late)
	}},
	{name: "underlay down for 10 s", build: besideKernel, sites: 2, loss: 1, quiet: true, strike: func(s *scene) {
		s.expectsSome("blue", dataplane.Outbound, dataplane.DropNoRoute, 1)
		check(s.t, s.a.Host.SetDown(netlab.UnderlayDev))
		time.Sleep(sized(time.Second, 10*time.Second))
		check(s.t, s.a.Host.SetUp(netlab.UnderlayDev))
	}},
	{name: "peer restart", build: besideOvertap, sites: 2, loss: 1, strike: func(s *scene) {
		s.far.stop(syscall.SIGTERM)
		s.far = start(s.t, s.b.Host, s.farConf)
	}},
	{name: "TAP deleted", build: besideKernel, sites: 2, loss: 1, strike: func(s *scene) {
		check(s.t, s.a.Host.DeleteLink("vx-blue"))
	}},
	{name: "bridge deleted", build: onOwnBridge, sites: 2, loss: 1, strike: func(s *scene) {
		check(s.t, s.a.Host.DeleteLink("br-blue"))
		eventually(s.t, "the TAP on its bridge", func() error {
			if p := ports(s.t, s.a.Host, "br-blue"); !slices.Contains(p, "vx-blue") {
				return fmt.Errorf("its ports: %v", p)
			}
			return nil
		})
		check(s.t, s.a.Host.SetMaster(s.a.Container.Name(), "br-blue"))
	}},
	{name: "ENOBUFS on the wire", build: besideKernel, sites: 2, loss: 0.5, strike: func(s *scene) {
		// A queue longer than a socket's buffer, so that it is the socket that fills.
		defer s.shape(256 << 20)()
		s.floodUntil("a full send buffer", func() error {
			if s.drops(dataplane.Outbound, dataplane.DropWireFull) == 0 {
				return errors.New("nothing is counted")
			}
			return nil
		})
	}},
	{name: "full device queue", build: besideKernel, sites: 2, loss: 0.99, strike: func(s *scene) {
		defer s.shape(64 << 10)()
		before := must[map[string]uint64](s.t)(s.a.Host.SNMP())["UdpSndbufErrors"]
		s.floodUntil("a full device queue", func() error {
			if must[map[string]uint64](s.t)(s.a.Host.SNMP())["UdpSndbufErrors"] == before {
				return errors.New("the kernel counts nothing")
			}
			return nil
		})
	}},
	{name: "full TAP ring", build: besideKernel, sites: 2, loss: 1, quiet: true, strike: func(s *scene) {
		before := must[netlink.LinkStatistics](s.t)(s.a.Host.Counters("vx-blue"))
		second := s.second()
		s.d.suspend()
		s.flood(second, traffic.UDPOptions{Size: 64, Duration: lasting()})
		s.d.signal(syscall.SIGCONT)
		if now := must[netlink.LinkStatistics](s.t)(s.a.Host.Counters("vx-blue")); now.TxDropped == before.TxDropped {
			s.t.Errorf("the kernel counts nothing that the TAP did not take: %+v", now)
		}
	}},
	{name: "control client that never reads", build: besideKernel, sites: 2, strike: strikeControl},
	{name: "10 k reloads", build: fromFile, sites: 2, quiet: true, strike: strikeReloads},
	{name: "SIGKILL", build: besideKernel, sites: 2, loss: 1, strike: strikeKill},
}

// overLine has a line between the hosts, and the kernel's device at b.
func overLine(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	s.line = newLine(t, s.a, s.b)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	s.d = start(t, s.a.Host, at(s.a, blue(s.a, s.b)))
	return s
}

// onOwnBridge has the daemon make the bridge.
func onOwnBridge(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	n := blue(s.a, s.b)
	n.bridge = "br-blue"
	s.d = start(t, s.a.Host, at(s.a, n))
	check(t, s.a.Host.SetMaster(s.a.Container.Name(), "br-blue"))
	return s
}

// fromFile has the kernel's device at b, and the daemon's file at hand.
func fromFile(t *testing.T, f *fault) *scene {
	t.Helper()
	s := place(t, f)
	kernel.end(t, s.b, blue(s.b, s.a), []*netlab.Site{s.a, s.b})
	s.conf = at(s.a, blue(s.a, s.b))
	s.file, s.socket = prepare(t, s.conf)
	s.d = startFile(t, s.a.Host, s.conf, s.file, s.socket)
	return s
}

// impair has the line do something to so many of a million frames, until it has,
// while TCP streams of a mebibyte each way must arrive whole.
func (s *scene) impair(share *atomic.Uint64, ppm uint64, done *atomic.Uint64) {
	share.Store(ppm)
	for end := time.Now().Add(lasting()); time.Now().Before(end) || done.Load() == 0; {
		for _, f := range flows(s.a, s.b) {
			if f.to.Addr.Is4() {
				f.tcp(s.t, 1<<20)
			}
		}
	}
	share.Store(0)
	s.t.Logf("done to %d frames", done.Load())
}

// shape makes the underlay's device slower than a flood, 200 Mbit/s, with a queue
// of so many bytes, until the function that it returns is called.
func (s *scene) shape(queue uint32) func() {
	s.t.Helper()
	tbf := &netlink.Tbf{Rate: 25_000_000, Limit: queue, Buffer: 1 << 20}
	on(s.t, s.a.Host, netlab.UnderlayDev, func(nl *netlink.Handle, l netlink.Link) error {
		tbf.QdiscAttrs = netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		return nl.QdiscAdd(tbf)
	})
	return func() {
		on(s.t, s.a.Host, netlab.UnderlayDev, func(nl *netlink.Handle, _ netlink.Link) error { return nl.QdiscDel(tbf) })
	}
}

// floodUntil floods from a second container until there is what is waited for.
func (s *scene) floodUntil(what string, there func() error) {
	s.t.Helper()
	second := s.second()
	eventually(s.t, what, func() error {
		flood := s.flood(second, traffic.UDPOptions{Size: 1400, Duration: lasting()})
		s.t.Logf("the flood: %v", flood)
		return there()
	})
}

// drops is what was dropped for the reason since the strike.
func (s *scene) drops(d dataplane.Direction, r dataplane.Drop) uint64 {
	s.t.Helper()
	e := expected{network: "blue", direction: d, reason: r}
	return dropsOf(s.d.stats(), e) - dropsOf(s.before, e)
}

// strikeControl opens connections to the control socket, of which some say
// nothing, some ask for far more than they read and some watch the table, and
// leaves half of them open until the daemon's end.
func strikeControl(s *scene) {
	const each = 10
	requests := []string{
		"",
		"GET /v1/fdb/watch HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	files := s.d.fds()
	var open []net.Conn
	for range each {
		for i, r := range requests {
			c := must[net.Conn](s.t)(net.Dial("unix", s.d.socket))
			s.t.Cleanup(func() { c.Close() })
			open = append(open, c)
			check(s.t, c.SetWriteDeadline(time.Now().Add(lasting()/each)))
			for range map[int]int{0: 0, 1: 1, 2: 10000}[i] {
				if _, err := c.Write([]byte(r)); err != nil {
					break // it takes no more questions before the answers are read
				}
			}
		}
	}
	for end := time.Now().Add(lasting()); time.Now().Before(end); {
		s.d.verb("status")
	}
	for _, c := range open[:len(open)/2] {
		c.Close()
	}
	eventually(s.t, "the connections that are over are closed", func() error {
		if n := s.d.fds(); n > files+len(open)/2+2 {
			return fmt.Errorf("%d files are open, %d before %d connections", n, files, len(open))
		}
		return nil
	})
}

// strikeReloads has the daemon read in turns a file with another network and
// another TTL, one with a mistake, and its first.
func strikeReloads(s *scene) {
	red := network{name: "red", vni: 101, port: 8472, bridge: "br-red"}
	first := s.conf.toml(s.socket)
	texts := []string{at(s.a, blue(s.a, s.b).with("ttl = 32"), red).toml(s.socket), first + "[[vxlan]]\n", first}
	for i := range sized(30, 10_000) {
		text := texts[i%len(texts)]
		check(s.t, os.WriteFile(s.file, []byte(text), 0o600))
		if _, err := s.d.try("reload"); (err == nil) != (i%len(texts) != 1) {
			s.t.Fatalf("reload %d: %v", i, err)
		}
	}
	check(s.t, os.WriteFile(s.file, []byte(first), 0o600))
	s.d.verb("reload")
}

// strikeKill kills the daemon at random moments, every second time also the one
// that is started after it, before that is ready, and starts it again; each time
// the honest flow goes on.
func strikeKill(s *scene) {
	var gaps []time.Duration
	file, socket := prepare(s.t, s.conf)
	for i := range sized(4, 100) {
		time.Sleep(rand.N(100 * time.Millisecond))
		s.d.kill()
		if i%2 == 1 {
			cmd := s.a.Host.Command(program(s.t), "run", "--config", file).KillWithParent()
			check(s.t, cmd.Start())
			time.Sleep(rand.N(200 * time.Millisecond))
			check(s.t, cmd.Process.Kill())
			_ = cmd.Wait() // killed, as it must be
		}
		began := time.Now()
		s.d = startFile(s.t, s.a.Host, s.conf, file, socket)
		s.recover()
		gaps = append(gaps, time.Since(began))
	}
	slices.Sort(gaps)
	s.t.Logf("%d kills; from a start to ten answers: median %v, longest %v", len(gaps), gaps[len(gaps)/2], gaps[len(gaps)-1])
}
