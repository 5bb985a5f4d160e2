package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// rule forbids imports to the Go files of a place, tests excepted.
type rule struct {
	place   string // a folder and all below it, or one file, from the module's root
	imports []string
	reason  string
}

// policy is what keeps each room to its own business. An import is forbidden
// when it is one of imports or lies below one ending in a slash.
var policy = []rule{
	{"encap", []string{"os", "net", "time", "sync", "log", "log/slog", "golang.org/x/sys/", "overtap/"},
		"encap is bytes only: what it says depends on its arguments alone"},
	{"fdb", []string{"os", "net", "log", "log/slog", "golang.org/x/sys/", "overtap/dataplane", "overtap/cmd/", "overtap/bench/"},
		"fdb is state only: it neither talks to the kernel nor to anybody"},
	{"fdb", []string{"sync"},
		"readers of the forwarding state never wait: atomics, and one writer at a time"},
	{"dataplane/outbound.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/inbound.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/probebox.go", []string{"sync", "fmt", "log/slog"}, "the road neither locks nor prints"},
	{"dataplane/packetout.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/packetin.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/segment.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/suppress.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/counters.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/udpsend_linux.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/udpwire_linux.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/coalesce.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/uplinkheader.go", []string{"sync", "time", "fmt", "log/slog"}, "the road neither locks, waits nor prints"},
	{"dataplane/mirrorring.go", []string{"sync", "time", "fmt", "log/slog"}, "a mirror does not slow the road"},
	{"dataplane/mirrorroad.go", []string{"sync", "fmt", "log/slog"}, "a mirror does not slow the road"},
	{"dataplane/thread_linux.go", []string{"sync", "time", "log/slog"}, "a thread waits for its descriptors alone: it takes no lock"},
	{"dataplane/uplink_linux.go", []string{"sync", "log/slog"}, "the road takes the uplink without a lock, and does not print"},
	{"dataplane", []string{"github.com/BurntSushi/toml", "encoding/json", "net/http", "log", "log/slog",
		"github.com/prometheus/", "github.com/vishvananda/", "github.com/spf13/", "overtap/cmd/", "overtap/bench/"},
		"control reaches the engine through its door, as plain data"},
	{"", []string{"github.com/google/gopacket/"},
		"gopacket allocates per packet: it is for tests, trace and capture"},
	{"", []string{"github.com/cilium/ebpf/"}, "the programs that the kernel runs for us are the uplink's and the TAPs'"},
	{"", []string{"github.com/songgao/water"}, "the TAP's edge is one file: dataplane/tap_linux.go"},
	{"", []string{"github.com/BurntSushi/toml"}, "the configuration's form is known to cmd/internal/config alone"},
	{"", []string{"github.com/prometheus/"}, "metrics are known to cmd/internal/metrics alone"},
	{"", []string{"charm.land/", "github.com/charmbracelet/"}, "the terminal is drawn on by cmd/internal/top alone"},
	{"", []string{"github.com/vishvananda/"}, "links and addresses are set by cmd/internal/host, cmd/internal/attach and bench/netlab alone"},
}

// allowed are the places that a rule for the whole module leaves out, by its
// pattern, and those that any rule does for a single import, by its full path.
var allowed = map[string][]string{
	"github.com/google/gopacket/": {"dataplane/dataplanetest", "bench/netlab/wiretest", "cmd/internal/capture/line.go"},
	"github.com/songgao/water":    {"dataplane/tap_linux.go"},
	"github.com/cilium/ebpf/":     {"dataplane/uplink_linux.go", "dataplane/uplinkprogram_linux.go", "dataplane/uplinkipip_linux.go", "dataplane/steering_linux.go"},
	"github.com/BurntSushi/toml":  {"cmd/internal/config"},
	"github.com/prometheus/":      {"cmd/internal/metrics"},
	"charm.land/":                 {"cmd/internal/top"},
	"github.com/charmbracelet/":   {"cmd/internal/top"},
	"github.com/vishvananda/":     {"cmd/internal/host", "cmd/internal/attach", "cmd/internal/lab", "cmd/internal/netnstest", "bench/netlab"},
	// What the CPU can do decides how fast a checksum is made, not what it is.
	"golang.org/x/sys/cpu": {"encap/checksum_amd64.go"},
}

func within(file, place string) bool {
	return place == "" || file == place || strings.HasPrefix(file, place+"/")
}

func matches(imported, pattern string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(imported+"/", pattern)
	}
	return imported == pattern
}

// violations returns a line for each import of file that the policy forbids.
func violations(file string, imports []string) (out []string) {
	for _, r := range policy {
		if !within(file, r.place) {
			continue
		}
		for _, pattern := range r.imports {
			if r.place == "" && anyWithin(file, allowed[pattern]) {
				continue
			}
			for _, i := range imports {
				if matches(i, pattern) && !anyWithin(file, allowed[i]) {
					out = append(out, file+" imports "+i+": "+r.reason)
				}
			}
		}
	}
	return out
}

func anyWithin(file string, places []string) bool {
	for _, p := range places {
		if within(file, p) {
			return true
		}
	}
	return false
}

func TestImportsFollowPolicy(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, name)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files++
		for _, v := range violations(filepath.ToSlash(rel), imports) {
			t.Error(v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 30 {
		t.Errorf("looked at %d files only", files)
	}
	for _, r := range policy {
		if _, err := os.Stat(filepath.Join(root, r.place)); err != nil {
			t.Errorf("the policy names a place that is not there: %v", err)
		}
	}
}

func TestPolicyCatches(t *testing.T) {
	for _, c := range []struct {
		file, imported string
		want           bool
	}{
		{"encap/ecn.go", "time", true},
		{"encap/ecn.go", "net/netip", false},
		{"encap/ecn.go", "golang.org/x/sys/cpu", true},
		{"encap/checksum_amd64.go", "golang.org/x/sys/cpu", false},
		{"encap/checksum_amd64.go", "golang.org/x/sys/unix", true},
		{"fdb/table.go", "sync", true},
		{"fdb/table.go", "sync/atomic", false},
		{"dataplane/outbound.go", "sync", true},
		{"dataplane/packetin.go", "time", true},
		{"dataplane/thread_linux.go", "sync", true},
		{"dataplane/thread_linux.go", "sync/atomic", false},
		{"dataplane/uplink_linux.go", "sync", true},
		{"dataplane/uplinkipsec_linux.go", "sync", false},
		{"dataplane/coalesce.go", "time", true},
		{"dataplane/engine.go", "sync", false},
		{"dataplane/engine.go", "overtap/cmd/internal/config", true},
		{"dataplane/inbound.go", "github.com/google/gopacket/layers", true},
		{"dataplane/engine.go", "github.com/songgao/water", true},
		{"dataplane/tap_linux.go", "github.com/songgao/water", false},
		{"cmd/overtap/run.go", "github.com/BurntSushi/toml", true},
		{"cmd/internal/config/raw.go", "github.com/BurntSushi/toml", false},
		{"cmd/overtap/top.go", "charm.land/bubbletea/v2", true},
		{"bench/daemon.go", "github.com/charmbracelet/x/ansi", true},
		{"cmd/internal/top/program.go", "charm.land/bubbletea/v2", false},
	} {
		if got := len(violations(c.file, []string{c.imported})) > 0; got != c.want {
			t.Errorf("%s importing %s: forbidden = %v, want %v", c.file, c.imported, got, c.want)
		}
	}
}
