package interop

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/wiretest"
	"overtap/bench/traffic"
)

// capturing is a running `overtap capture`, or another verb that streams.
type capturing struct {
	t   *testing.T
	cmd *exec.Cmd
	out *journal
	log *journal
}

// capture starts the verb and waits until the daemon serves it.
func (d *daemon) capture(t *testing.T, args ...string) *capturing {
	t.Helper()
	c := &capturing{t, exec.Command(builtPath, append(args, "--socket", d.socket)...), &journal{}, &journal{}}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = environ(), c.out, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, c.cmd.Start())
	eventually(t, "it captures", func() error {
		if !strings.Contains(c.log.String(), "ing ") { // capturing, tracing
			return fmt.Errorf("it says %q", c.log)
		}
		return nil
	})
	return c
}

// end interrupts it.
func (c *capturing) end() {
	c.t.Helper()
	check(c.t, c.cmd.Process.Signal(syscall.SIGINT))
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("%v ended with %v: %s", c.cmd.Args, err, c.log)
	}
}

// shark has tshark read a file and returns a line for each frame that matches.
func shark(t *testing.T, file, filter string, fields ...string) []string {
	t.Helper()
	args := []string{"-n", "-r", file, "-Y", filter, "-T", "fields"}
	for _, f := range append([]string{"frame.interface_name", "frame.comment"}, fields...) {
		args = append(args, "-e", f)
	}
	out := string(must[[]byte](t)(exec.Command("tshark", args...).Output()))
	if out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

// has fails the test unless one of the lines is as wanted.
func has(t *testing.T, lines []string, want string) {
	t.Helper()
	for _, l := range lines {
		if l == want {
			return
		}
	}
	t.Errorf("no line is %q:\n%s", want, strings.Join(lines, "\n"))
}

// A capture against a kernel peer, read back by tshark: each point with its
// frames, VXLAN dissected, a GSO packet marked, an unlisted sender's frame with its reason.
func TestCapture(t *testing.T) {
	t.Parallel()
	wiretest.NewShark(t) // or there is no judge
	d, a, b := pair(t)
	reaches(t, a.Container, b.IPv4)
	unlisted := netlab.UnderlayAddr(77, false)
	check(t, b.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(unlisted, 24)))
	bad := newVTEP(t, b.Host, unlisted, a.Underlay, 4789)

	file := filepath.Join(t.TempDir(), "x.pcapng")
	c := d.capture(t, "capture", "-w", file, "--network", "blue")
	lines := d.capture(t, "capture", "--point", "tap-out", "icmp")
	live := d.capture(t, "trace", "--live", "--duration", "1m", "icmp or ether src 02:42:00:00:00:77")
	for range 3 {
		r := must[netlab.PingResult](t)(netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Timeout: patience}))
		if r.Received == 0 {
			t.Fatalf("ping: %v", r)
		}
	}
	bad.send(0, vxlan(8, 100, ethernet(a.MAC, 0x0242_0000_0077, nil, etherTest, marked(60, "unlisted sender"))))
	flow{traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4}, int(a.MTU)}.tcp(t, 1<<20)
	eventually(t, "the unlisted sender is dropped", func() error {
		if !strings.Contains(live.out.String(), "peer_not_admitted") {
			return fmt.Errorf("the trace says\n%s", live.out)
		}
		return nil
	})
	for _, one := range []*capturing{c, lines, live} {
		one.end()
	}

	inner := func(from, to *netlab.Site) string { return from.IPv4.String() + "\t" + to.IPv4.String() }
	wire := func(from, to *netlab.Site) string {
		return fmt.Sprintf("%s,%s\t%s,%s", from.Underlay, from.IPv4, to.Underlay, to.IPv4)
	}
	peer := "peer " + b.Underlay.String()
	echo := shark(t, file, "icmp.type == 8", "ip.src", "ip.dst", "vxlan.vni")
	has(t, echo, "blue tap-in\t\t"+inner(a, b)+"\t")
	has(t, echo, "blue wire-out\t"+peer+", outer headers reconstructed\t"+wire(a, b)+"\t100")
	answer := shark(t, file, "icmp.type == 0", "ip.src", "ip.dst", "vxlan.vni")
	has(t, answer, "blue wire-in\t"+peer+", outer headers reconstructed\t"+wire(b, a)+"\t100")
	has(t, answer, "blue tap-out\t"+peer+"\t"+inner(b, a)+"\t")
	if len(echo) != 6 || len(answer) != 6 {
		t.Errorf("3 pings are\n%s", strings.Join(append(echo, answer...), "\n"))
	}
	has(t, shark(t, file, "eth.type == 0x88b5", "ip.src", "vxlan.vni"),
		"blue dropped inbound\tpeer "+unlisted.String()+", dropped: peer_not_admitted "+
			"(the sender is neither a listed peer nor in an admitted prefix), outer headers reconstructed\t"+unlisted.String()+"\t100")
	supers := shark(t, file, `frame.comment contains "GSO packet" && tcp`)
	if len(supers) == 0 {
		t.Error("no GSO packet is marked")
	}
	// What overtap shows of the wire is what the wire carries: ports are right.
	for _, line := range shark(t, file, `vxlan && icmp.type == 8`, "udp.srcport", "udp.dstport") {
		if f := strings.Split(line, "\t"); f[2] < "49152" || f[3] != "4789" {
			t.Errorf("outer ports: %s", line)
		}
	}
	if s := c.log.String(); strings.Contains(s, "missed") {
		t.Errorf("the capture says %s", s)
	}
	if got := strings.Count(lines.out.String(), "ICMP EchoReply"); got != 3 || strings.Contains(lines.out.String(), "tap-in") {
		t.Errorf("%d echo replies in\n%s", got, lines.out)
	}
	trace := live.out.String()
	if !strings.Contains(trace, "ICMP EchoRequest") || !strings.Contains(trace, "\n    wire-out to "+b.Underlay.String()+"\n") ||
		!strings.Contains(trace, "ICMP EchoReply") || !strings.Contains(trace, "\n    tap-out\n") {
		t.Errorf("the trace says\n%s", trace)
	}

	// Through a pipe.
	pipe := func(args string) string {
		cmd := exec.Command("sh", "-c", fmt.Sprintf("%s capture --socket %s -w - %s | tshark -n -r - 2>&1", builtPath, d.socket, args))
		cmd.Env = environ()
		done := make(chan string, 1)
		go func() {
			out, err := cmd.CombinedOutput()
			done <- fmt.Sprintf("%s%v", out, err)
		}()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			select {
			case out := <-done:
				return out
			case <-time.After(50 * time.Millisecond):
				if _, err := netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Timeout: time.Second}); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Fatal("the pipe does not end")
		return ""
	}
	if out := pipe("--count 4 icmp"); strings.Count(out, "ICMP") < 4 {
		t.Errorf("tshark reads of the pipe:\n%s", out)
	}
}

// A capture of a tunnel, against its peer.
func TestCaptureOfTunnel(t *testing.T) {
	t.Parallel()
	wiretest.NewShark(t)
	w := newTunnelled(t, 2, "")
	reaches(t, w.containers[0], inner(1, 2, false))
	file := filepath.Join(t.TempDir(), "x.pcapng")
	c := w.daemons[0].capture(t, "capture", "-w", file, "--network", "tun0", "--count", "4", "icmp")
	reaches(t, w.containers[0], inner(1, 2, false))
	check(t, c.cmd.Wait()) // four points: it has enough
	from, to := inner(0, 2, false), inner(1, 2, false)
	lines := shark(t, file, "icmp", "ip.src", "ip.dst", "icmp.type")
	has(t, lines, fmt.Sprintf("tun0 tap-in\t\t%s\t%s\t8", from, to))
	has(t, lines, fmt.Sprintf("tun0 wire-out\tpeer 192.0.2.2, outer headers reconstructed\t192.0.2.1,%s\t192.0.2.2,%s\t8", from, to))
	has(t, lines, fmt.Sprintf("tun0 wire-in\tpeer 192.0.2.2, outer headers reconstructed\t192.0.2.2,%s\t192.0.2.1,%s\t0", to, from))
	has(t, lines, fmt.Sprintf("tun0 tap-out\tpeer 192.0.2.2\t%s\t%s\t0", to, from))
}
