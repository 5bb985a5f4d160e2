package top

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

var update = flag.Bool("update", false, "write testdata again")

func plain(l string) string { return ansi.Strip(l) }

// The screens are those in testdata, which -update writes again.
func TestScreens(t *testing.T) {
	gone := func(s *state) {
		s.fail(errors.New("no overtap daemon answers at /run/overtap/control.sock: start one"), s.clock.Add(12*time.Second))
	}
	for _, tc := range []struct {
		name          string
		width, height int
		keys          []string
		change        func(*state)
	}{
		{"networks", 80, 24, nil, nil},
		{"networks-wide", 132, 12, nil, nil},
		{"networks-narrow", 40, 8, nil, nil},
		{"peers", 80, 24, []string{"2"}, nil},
		{"peers-wide", 140, 12, []string{"2", "s"}, nil},
		{"drops", 80, 24, []string{"3"}, nil},
		{"drops-wide", 160, 12, []string{"3", "r"}, nil},
		{"fdb", 80, 24, []string{"4", "s", "s", "s", "s", "pgdown"}, nil},
		{"filter", 80, 12, []string{"4", "/", "0", "1", "enter"}, nil},
		{"typing", 80, 12, []string{"2", "/", "2", "0"}, nil},
		{"help", 80, 24, []string{"?"}, nil},
		{"paused", 80, 12, []string{"space"}, nil},
		{"gone", 80, 12, nil, gone},
		{"small", 39, 24, nil, nil},
		{"not-ready", 80, 12, nil, func(s *state) {
			s.last.status.Ready, s.last.status.Problems = false, []string{"the underlay's address 192.0.2.1 is gone"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := after(t, 40, tc.width, tc.height)
			s.type_(t, tc.keys...)
			if tc.change != nil {
				tc.change(s)
			}
			path := filepath.Join("testdata", tc.name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(s.screen()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), s.screen()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// A first sample has no rates.
func TestFirstScreen(t *testing.T) {
	s := after(t, 1, 80, 24)
	if got := s.screen(); !strings.Contains(got, "tx     -bit/s") || strings.Contains(got, "NaN") {
		t.Errorf("%s", got)
	}
}

// Where there must be no colour none is set, and an alarm stands out still.
func TestNoColor(t *testing.T) {
	with, without := after(t, 10, 80, 24), after(t, 10, 80, 24)
	without.color = false
	with.fail(errors.New("gone"), with.clock)
	without.fail(errors.New("gone"), without.clock)
	colored, mono := strings.Join(with.lines(), "\n"), strings.Join(without.lines(), "\n")
	if !strings.Contains(colored, "\x1b[1;31m") {
		t.Errorf("no colour: %q", colored)
	}
	if strings.Contains(mono, ";3") || strings.Contains(mono, "[3") {
		t.Errorf("a colour: %q", mono)
	}
	if plain(colored) != plain(mono) {
		t.Error("the texts differ")
	}
}

// Where the locale is not UTF-8 every character is ASCII.
func TestASCII(t *testing.T) {
	s := newState(time.Second, Networks, false, false)
	for i := range 40 {
		s.observe(second(i))
	}
	for v := range views {
		s.type_(t, fmt.Sprint(int(v)+1))
		for _, l := range s.lines() {
			for _, r := range l {
				if r > 126 {
					t.Fatalf("%s: %q in %q", v, r, l)
				}
			}
		}
	}
}

func genName(t *rapid.T) string {
	return rapid.OneOf(rapid.StringMatching(`[a-z]{1,20}`), rapid.String(), rapid.SampledFrom([]string{"網路網路網路", "é́́́", "\x1b[31mred", "a\tb\n"})).Draw(t, "name")
}

func genStats(t *rapid.T) dataplane.Stats {
	counter := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 5000))
	traffic := func() dataplane.Traffic {
		return dataplane.Traffic{TxPackets: counter.Draw(t, "tx"), TxBytes: counter.Draw(t, "txb"), RxPackets: counter.Draw(t, "rx"), RxBytes: counter.Draw(t, "rxb")}
	}
	addr := func() netip.Addr {
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")))
		}
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	}
	var s dataplane.Stats
	for range rapid.IntRange(0, 5).Draw(t, "networks") {
		kind := rapid.SampledFrom([]dataplane.Kind{dataplane.KindVXLAN, dataplane.KindIPIP}).Draw(t, "kind")
		s.Networks = append(s.Networks, dataplane.NetworkStats{Network: genName(t), Kind: kind, Traffic: traffic(),
			Entries: rapid.IntRange(0, 1<<30).Draw(t, "entries"), EntriesMax: rapid.IntRange(0, 1<<30).Draw(t, "max")})
		s.Peers = append(s.Peers, dataplane.PeerStats{Network: genName(t), Peer: addr(), PathMTU: encap.UnderlayMTU(rapid.IntRange(0, 65535).Draw(t, "pmtu")), Traffic: traffic()})
		s.Drops = append(s.Drops, dataplane.DropStats{Network: genName(t), Reason: rapid.SampledFrom(dataplane.Drops()).Draw(t, "reason"), Count: counter.Draw(t, "count")})
		s.Wire = append(s.Wire, dataplane.ConnStats{SocketDropped: counter.Draw(t, "socket")})
	}
	return s
}

var keyNames = []string{
	"1", "2", "3", "4", "tab", "shift+tab", "s", "S", "r", "/", "esc", "enter", "x", "é", "backspace", "ctrl+u", "space", "?",
	"up", "down", "pgup", "pgdown", "home", "end", "j", "k", "z",
}

// Whatever the daemon says, the size is and was typed: no line is wider than the
// screen, there are no more of them than fit, and none holds what would move the
// cursor.
func TestScreenFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState(time.Second, Networks, rapid.Bool().Draw(t, "unicode"), rapid.Bool().Draw(t, "color"))
		size := func() {
			s.width, s.height = rapid.IntRange(1, 200).Draw(t, "width"), rapid.IntRange(1, 60).Draw(t, "height")
		}
		size()
		at := begun
		look := func() {
			lines := s.lines()
			if len(lines) > s.height {
				t.Fatalf("%d lines of %d", len(lines), s.height)
			}
			if s.width >= leastWidth && s.height >= leastHeight && len(lines) != s.height {
				t.Fatalf("%d lines, want %d", len(lines), s.height)
			}
			for _, l := range lines {
				if w := ansi.StringWidth(l); w > s.width {
					t.Fatalf("%d wide of %d: %q", w, s.width, l)
				}
				for _, r := range plain(l) {
					if r < ' ' || r == 0x7f {
						t.Fatalf("%q in %q", r, l)
					}
				}
			}
		}
		observe := func() {
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(5*time.Minute)).Draw(t, "later")))
			s.observe(&sample{at, control.Status{
				Version: genName(t), PID: rapid.IntRange(1, 3).Draw(t, "pid"), Ready: rapid.Bool().Draw(t, "ready"),
				Problems: rapid.SliceOfN(rapid.String(), 0, 1).Draw(t, "problems"), Warnings: rapid.SliceOfN(rapid.String(), 0, 1).Draw(t, "warnings"),
			}, genStats(t)})
		}
		observe()
		look()
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				observe()
			case 1:
				size()
				s.arrange()
			case 2:
				s.fail(errors.New(rapid.String().Draw(t, "error")), at)
			default:
				key := rapid.SampledFrom(keyNames).Draw(t, "key")
				s.press(key, map[bool]string{true: key}[len(key) <= 2])
			}
			if rapid.Bool().Draw(t, "paged") {
				p, err := s.query("").Page(table120)
				if err != nil {
					t.Fatal(err)
				}
				s.page = p
				s.arrange()
			}
			look()
		}
	})
}
