package wiretest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Amiss is a display filter for what no correct sender puts on a wire: anything
// malformed, and a checksum, outer or inner, whose status is 0, which is bad.
const Amiss = `_ws.malformed || _ws.expert.severity == "Error" || _ws.short || ` +
	`ip.checksum.status == 0 || udp.checksum.status == 0 || ` +
	`(tcp.checksum.status == 0 && !(tcp.checksum == 0xffff && tcp.checksum_calculated == 0)) || ` +
	`icmp.checksum.status == 0 || icmpv6.checksum.status == 0`

// decoders are those that tshark must have. The payload is random, and others
// would make something of it.
var decoders = strings.Fields("frame eth ethertype vlan arp ip ipv6 icmp icmpv6 igmp tcp udp vxlan data")

// Shark is tshark with those decoders alone. Checksums are verified, and each
// packet is taken for itself.
type Shark struct {
	profile string // configuration directory
}

// NewShark readies tshark, which lasts about as long as judging a capture.
// Without tshark it skips the test, or fails it when the environment says
// REQUIRE_ROOT=1.
func NewShark(tb testing.TB) *Shark {
	tb.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			tb.Fatal("there is no tshark to judge what goes over the wire, and REQUIRE_ROOT=1 forbids to skip: install Debian's tshark")
		}
		tb.Skip("there is no tshark to judge what goes over the wire: install Debian's tshark")
	}
	s := &Shark{tb.TempDir()}
	// Name, short name and filter name of each, separated by tabs.
	out, err := exec.Command("tshark", "-G", "protocols").Output()
	if err != nil {
		tb.Fatalf("list tshark's decoders: %v", err)
	}
	var disabled []string
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) < 3 || slices.Contains(decoders, f[2]) || strings.HasPrefix(f[2], "_ws.") ||
			strings.HasPrefix(f[2], "ipv6.") || strings.HasPrefix(f[2], "tcp.") {
			continue
		}
		disabled = append(disabled, f[2]+"\n")
	}
	if len(disabled) == 0 {
		tb.Fatalf("tshark lists no decoders:\n%s", out)
	}
	if err := os.WriteFile(filepath.Join(s.profile, "disabled_protos"), []byte(strings.Join(disabled, "")), 0o644); err != nil {
		tb.Fatal(err)
	}
	return s
}

// Evidence is a capture before the shark. Frames are numbered from 1.
type Evidence struct {
	tb    testing.TB
	shark *Shark
	file  string
	port  uint16
}

// Look writes the frames to a file; UDP of the port is VXLAN.
func (s *Shark) Look(tb testing.TB, port uint16, frames [][]byte) *Evidence {
	tb.Helper()
	e := &Evidence{tb, s, filepath.Join(tb.TempDir(), "wire.pcap"), port}
	f, err := os.Create(e.file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(1<<18, layers.LinkTypeEthernet); err != nil {
		tb.Fatal(err)
	}
	start := time.Now()
	for i, b := range frames {
		info := gopacket.CaptureInfo{Timestamp: start.Add(time.Duration(i) * time.Microsecond), CaptureLength: len(b), Length: len(b)}
		if err := w.WritePacket(info, b); err != nil {
			tb.Fatal(err)
		}
	}
	return e
}

func (e *Evidence) command(more ...string) *exec.Cmd {
	cmd := exec.Command("tshark", append([]string{"-n", "-r", e.file, "-d", fmt.Sprintf("udp.port==%d,vxlan", e.port),
		"-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"}, more...)...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+e.shark.profile)
	return cmd
}

// Fields returns the lines of fields, separated by tabs, of the frames that a
// display filter selects.
func (e *Evidence) Fields(filter string, fields ...string) []string {
	e.tb.Helper()
	args := []string{"-Y", filter, "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := e.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		e.tb.Fatalf("tshark: %v\n%s", err, stderr.Bytes())
	}
	if len(out) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// Numbers returns the numbers of the frames that a filter selects.
func (e *Evidence) Numbers(filter string) (list []int) {
	e.tb.Helper()
	for _, line := range e.Fields(filter, "frame.number") {
		n, err := strconv.Atoi(line)
		if err != nil {
			e.tb.Fatalf("tshark's frame number: %v", err)
		}
		list = append(list, n)
	}
	return list
}

// Explain returns what tshark has to say about a frame.
func (e *Evidence) Explain(number int) string {
	out, err := e.command("-Y", fmt.Sprintf("frame.number == %d", number), "-V").Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}
