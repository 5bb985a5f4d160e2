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

// policy keeps each package to its subject. An import is forbidden
// when it is one of imports or lies below one ending in a slash.
var policy = []rule{
	{"encap", []string{"os", "net", "time", "sync", "log", "log/slog", "golang.org/x/sys/", "overtap/"},
		"encap is bytes only: its results depend on its arguments alone"},
	{"fdb", []string{"os", "net", "log", "log/slog", "golang.org/x/sys/", "overtap/dataplane", "overtap/cmd/", "overtap/bench/"},
		"fdb is state only: it makes no system calls and writes no logs"},
	{"fdb", []string{"sync"},
		"readers of the forwarding state never wait: atomics, and one writer at a time"},
	{"dataplane/sender.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/deliverer.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/tx_vxlan.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/rx_vxlan.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/probe_box.go", []string{"sync", "fmt", "log/slog"}, "the path neither locks nor prints"},
	{"dataplane/tx_ipip.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/rx_ipip.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/gso.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/suppress.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/counters.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/netio/linux/udp_send.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/netio/linux/udp_conn.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/gro.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/netio/linux/uplink/header.go", []string{"sync", "time", "fmt", "log/slog"}, "the path neither locks, waits nor prints"},
	{"dataplane/mirror_ring.go", []string{"sync", "time", "fmt", "log/slog"}, "a mirror does not slow the path"},
	{"dataplane/mirror_path.go", []string{"sync", "fmt", "log/slog"}, "a mirror does not slow the path"},
	{"dataplane/thread.go", []string{"sync", "time", "log/slog"}, "a thread waits for its descriptors alone: it takes no lock"},
	{"dataplane/netio/linux/uplink/uplink.go", []string{"sync", "log/slog"}, "the path uses the uplink without a lock, and does not print"},
	{"dataplane/netio/linux/uplink/worker.go", []string{"sync", "log/slog"}, "the path uses the uplink without a lock, and does not print"},
	{"dataplane", []string{"github.com/BurntSushi/toml", "encoding/json", "net/http", "log", "log/slog",
		"github.com/prometheus/", "github.com/vishvananda/", "github.com/spf13/", "overtap/cmd/", "overtap/bench/"},
		"control reaches the engine through Apply and Stats, as plain data"},
	{"dataplane", []string{"os", "net", "os/", "net/http", "syscall", "overtap/dataplane/netio/linux"},
		"the engine does its I/O by a Backend: it does not know the system it runs on"},
	{"dataplane/netio", []string{"overtap/dataplane"}, "netio and its backends do not know the engine"},
	{"", []string{"github.com/google/gopacket/"},
		"gopacket allocates per packet: it is for tests, trace and capture"},
	{"", []string{"github.com/cilium/ebpf/"}, "the programs that the kernel runs for us are the uplink's and the TAPs'"},
	{"", []string{"github.com/songgao/water"}, "TAPs are opened in one package: dataplane/netio/linux"},
	{"", []string{"github.com/BurntSushi/toml"}, "the configuration's form is known to cmd/internal/config alone"},
	{"", []string{"github.com/prometheus/"}, "metrics are known to cmd/internal/metrics alone"},
	{"", []string{"charm.land/", "github.com/charmbracelet/"}, "the terminal is drawn on by cmd/internal/top alone"},
	{"", []string{"github.com/google/nftables/"}, "the packet filter's rules are read by cmd/internal/firewall alone"},
	{"", []string{"github.com/vishvananda/"}, "links and addresses are set by cmd/internal/host, cmd/internal/attach and bench/netlab alone"},
}

// allowed are the places that a rule for all of the module leaves out, by its
// pattern, and those that any rule does for a single import, by its full path.
var allowed = map[string][]string{
	"github.com/google/gopacket/": {"dataplane/netio/netiotest", "bench/netlab/wiretest", "cmd/internal/capture/line.go"},
	"github.com/songgao/water":    {"dataplane/netio/linux"},
	"github.com/cilium/ebpf/":     {"dataplane/netio/linux"},
	"os":                          {"dataplane/netio/linux", "dataplane/netio/netiotest"},
	"net":                         {"dataplane/netio/linux"},
	"github.com/BurntSushi/toml":  {"cmd/internal/config"},
	"github.com/prometheus/":      {"cmd/internal/metrics"},
	"charm.land/":                 {"cmd/internal/top"},
	"github.com/charmbracelet/":   {"cmd/internal/top"},
	"github.com/google/nftables/": {"cmd/internal/firewall"},
	"github.com/vishvananda/":     {"cmd/internal/host", "cmd/internal/attach", "cmd/internal/bridgeport", "cmd/internal/firewall", "cmd/internal/lab", "cmd/internal/netnstest", "bench/netlab"},
	// What the CPU can do decides how fast a checksum is computed, not its value.
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
		{"dataplane/tx_vxlan.go", "sync", true},
		{"dataplane/rx_ipip.go", "time", true},
		{"dataplane/thread.go", "sync", true},
		{"dataplane/thread.go", "sync/atomic", false},
		{"dataplane/netio/linux/uplink/uplink.go", "sync", true},
		{"dataplane/netio/linux/uplink/ipsec.go", "sync", false},
		{"dataplane/engine.go", "net", true},
		{"dataplane/engine.go", "overtap/dataplane/netio/linux", true},
		{"dataplane/netio/linux/tap.go", "overtap/dataplane", true},
		{"dataplane/netio/linux/tap.go", "os", false},
		{"dataplane/gro.go", "time", true},
		{"dataplane/engine.go", "sync", false},
		{"dataplane/engine.go", "overtap/cmd/internal/config", true},
		{"dataplane/rx_vxlan.go", "github.com/google/gopacket/layers", true},
		{"dataplane/engine.go", "github.com/songgao/water", true},
		{"dataplane/netio/linux/tap.go", "github.com/songgao/water", false},
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
