package pcapng

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// write is a capture of three packets on two interfaces.
func write(tb testing.TB, w io.Writer) {
	tb.Helper()
	n, err := NewWriter(w, "test")
	if err != nil {
		tb.Fatal(err)
	}
	for i, one := range []Interface{{Name: "blue tap-in", LinkType: Ethernet, SnapLen: 100}, {Name: "blue wire-out", Description: "outer", LinkType: Raw}} {
		if got, err := n.AddInterface(one); err != nil || got != i {
			tb.Fatalf("interface %d: %d, %v", i, got, err)
		}
	}
	at := time.Unix(1700000000, 123456789)
	eth := append(make([]byte, 12), 0x88, 0xb5, 'x')
	ip := append([]byte{0x45, 0, 0, 21, 0, 0, 0, 0, 64, 200, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, 'y')
	for i, p := range []Packet{
		{Interface: 0, Time: at, Data: [2][]byte{eth}, Length: 1000, Direction: Outbound, Comment: "GSO packet 3×300 B"},
		{Interface: 1, Time: at.Add(1), Data: [2][]byte{ip[:20], ip[20:]}, Length: 21, Comment: "peer 192.0.2.2"},
		{Interface: 1, Time: at.Add(2), Data: [2][]byte{ip}, Length: 21, Direction: Inbound},
	} {
		if err := n.WritePacket(&p); err != nil {
			tb.Fatalf("packet %d: %v", i, err)
		}
	}
	if err := n.Finish(7, "7 were missed"); err != nil {
		tb.Fatal(err)
	}
}

// What is written is what another reader of the form reads.
func TestReadBack(t *testing.T) {
	var b bytes.Buffer
	write(t, &b)
	r, err := pcapgo.NewNgReader(bytes.NewReader(b.Bytes()), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		iface, size, length int
	}{{0, 15, 1000}, {1, 21, 21}, {1, 21, 21}} {
		data, info, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		if info.InterfaceIndex != want.iface || len(data) != want.size || info.Length != want.length ||
			!info.Timestamp.Equal(time.Unix(1700000000, 123456789+int64(i))) {
			t.Errorf("packet %d: %+v, % x", i, info, data)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last: %v", err)
	}
	first, _ := r.Interface(0)
	second, _ := r.Interface(1)
	if first.Name != "blue tap-in" || first.LinkType != layers.LinkTypeEthernet || first.SnapLength != 100 ||
		second.Description != "outer" || second.LinkType != layers.LinkTypeRaw || first.Statistics.PacketsDropped != 7 ||
		first.Statistics.PacketsReceived != 1 || first.Statistics.Comment != "7 were missed" {
		t.Errorf("interfaces %+v, %+v", first, second)
	}
}

func TestTsharkReads(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("there is no tshark, and REQUIRE_ROOT=1 forbids to skip: install Debian's tshark")
		}
		t.Skip("there is no tshark: install Debian's tshark")
	}
	file := filepath.Join(t.TempDir(), "x.pcapng")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-n", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment",
		"-e", "frame.packet_flags_direction", "-e", "frame.time_epoch", "-e", "ip.dst", "-e", "frame.len").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "blue tap-in\tGSO packet 3×300 B\t2\t1700000000.123456789\t\t1000\n" +
		"blue wire-out\tpeer 192.0.2.2\t\t1700000000.123456790\t192.0.2.2\t21\n" +
		"blue wire-out\t\t1\t1700000000.123456791\t192.0.2.2\t21\n"
	got := strings.NewReplacer("0x00000001", "1", "0x00000002", "2", "0x00000000", "").Replace(string(out))
	if got != want {
		t.Errorf("tshark reads\n%swant\n%s", got, want)
	}
}

func TestMistakes(t *testing.T) {
	n, err := NewWriter(io.Discard, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.WritePacket(&Packet{}); err == nil || !strings.Contains(err.Error(), "no interface 0") {
		t.Errorf("on no interface: %v", err)
	}
	if _, err := NewWriter(broken{}, "test"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("without a destination: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
