package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// evil acts on a terminal in several ways: by an escape sequence, a bell, a CSI in
// one character, and one that turns the direction of text.
const evil = "e\x1b]0;pwned\a\x1b[31m\u009b2J\u202evil\r"

// hostile is a daemon in which every string is evil, errors too where fail is set.
type hostile struct {
	*fakeDaemon
	fail bool
}

func (h *hostile) err() error {
	if h.fail {
		return errors.New("no: " + evil)
	}
	return nil
}

// poisoned sets every string in *v that is one of plain data.
func poisoned[T any](v T) T {
	poison(reflect.ValueOf(&v).Elem())
	return v
}

func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			v.SetString(evil)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.CanSet() && v.Type().Elem().Kind() == reflect.String && v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			poison(v.Elem())
		}
	}
}

func (h *hostile) Status() control.Status {
	s := h.fakeDaemon.Status()
	s.Attachments = []attach.Attachment{{}}
	return poisoned(s)
}
func (h *hostile) Stats() dataplane.Stats { return poisoned(h.fakeDaemon.Stats()) }
func (h *hostile) FDB(string) ([]dataplane.FDBEntry, error) {
	all, _ := h.fakeDaemon.FDB("")
	return poisoned(all), h.err()
}
func (h *hostile) FDBPage(q control.FDBQuery) (control.FDBPage, error) {
	return q.Page(func(_ string, each func(*dataplane.FDBEntry)) error {
		all, err := h.FDB("")
		for i := range all {
			each(&all[i])
		}
		return err
	})
}
func (h *hostile) Neighbors(string) ([]dataplane.NeighborEntry, error) {
	all, _ := h.fakeDaemon.Neighbors("")
	return poisoned(all), h.err()
}
func (h *hostile) AddFDB(control.Entry) (control.Added, error) {
	return poisoned(control.Added{Peer: peer2, Admits: true}), h.err()
}
func (h *hostile) DeleteFDB(string, encap.MAC) (control.Deleted, error) {
	return poisoned(control.Deleted{Peer: peer2}), h.err()
}
func (h *hostile) FlushFDB(control.Match) (int, error) { return 3, h.err() }
func (h *hostile) Reload(dryRun bool) (control.Reloaded, error) {
	r, _ := h.fakeDaemon.Reload(dryRun)
	return poisoned(r), h.err()
}
func (h *hostile) Resolve(string, netip.Addr) (control.Resolved, error) {
	r := poisoned(control.Resolved{MAC: staticMAC, SourceMAC: learnedMAC, Source: netip.MustParseAddr("198.51.100.1")})
	r.Kind = dataplane.KindVXLAN
	return r, h.err()
}
func (h *hostile) Cluster() (control.Cluster, error) {
	c, _ := h.fakeDaemon.Cluster()
	c.Members, c.Endpoints, c.Addresses = poisoned(c.Members), poisoned(c.Endpoints), poisoned(c.Addresses)
	return c, h.err()
}

func (h *hostile) Explain(p dataplane.Query) (dataplane.Explanation, error) {
	p.Network = "blue"
	x, _ := h.fakeDaemon.Explain(p)
	x = poisoned(x)
	x.Verdict = dataplane.OutcomeSent
	return x, h.err()
}
func (h *hostile) WatchFDB(ctx context.Context, _ string, emit func([]dataplane.FDBChange, uint64) error) error {
	if h.fail {
		return h.err()
	}
	return h.fakeDaemon.WatchFDB(ctx, "", func(all []dataplane.FDBChange, lost uint64) error { return emit(poisoned(all), lost) })
}
func (h *hostile) Capture(ctx context.Context, s dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error {
	if h.fail {
		return h.err()
	}
	s.Network = ""
	return h.fakeDaemon.Capture(ctx, s, func(all []dataplane.Record, lost uint64) error {
		all = slices.Clone(all)
		for i := range all {
			all[i].Network = evil
		}
		return emit(all, lost)
	})
}
func (h *hostile) Attach(context.Context, *os.File, attach.Request) (attach.Made, error) {
	return poisoned(attach.Made{}), h.err()
}
func (h *hostile) Detach(*os.File, attach.Selector) (attach.Attachment, error) {
	return poisoned(attach.Attachment{}), h.err()
}

// silentVerbs print nothing that is from outside, or run a program that prints.
var silentVerbs = map[string]string{
	"overtap run":                   "it logs; TestLogEscapes",
	"overtap lab up":                "shows only its own names",
	"overtap lab list":              "the same",
	"overtap lab exec":              "runs a program",
	"overtap lab speed":             "measures by itself",
	"overtap lab down":              "removes only what it made",
	"overtap version":               "of this program",
	"overtap man":                   "of this program",
	"overtap help":                  "of this program",
	"overtap completion bash":       "of this program",
	"overtap completion zsh":        "of this program",
	"overtap completion fish":       "of this program",
	"overtap completion powershell": "of this program",
}

// No verb prints anything that acts on the terminal, in text, in JSON, in
// color, or in errors. A verb that is new must be added here.
func TestNoEscapes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[underlay]\naddress = \"192.0.2.1\"\n[[vxlan]]\nname = \"blue\"\nvni = 1\n"+
		`bridge = "e\u001b[31m\u009b2J"`+"\n\"x\\u001b[1m\" = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := map[string][][]string{
		"overtap status":            {nil, {"--json"}, {"--color=always"}, {"--watch=100ms"}, {"--watch=100ms", "--color=always"}},
		"overtap stats":             {nil, {"--json"}, {"--network", "x" + evil}},
		"overtap peers":             {nil, {"--json"}, {"--watch=100ms"}},
		"overtap fdb":               {nil, {"--json"}},
		"overtap fdb show":          {nil, {"--json"}, {"--peer", "192.0.2.77"}},
		"overtap fdb add":           {{"02:00:00:00:00:01", "192.0.2.2"}},
		"overtap fdb del":           {{"02:00:00:00:00:01"}},
		"overtap fdb flush":         {nil},
		"overtap fdb monitor":       {nil, {"--json"}},
		"overtap neigh":             {nil, {"--json"}},
		"overtap cluster members":   {nil, {"--json"}},
		"overtap cluster endpoints": {nil, {"--json"}},
		"overtap cluster addresses": {nil, {"--json"}},
		"overtap neigh show":        {nil},
		"overtap trace": {{"--src", "02:00:00:00:00:01", "--dst", "02:00:00:00:00:02"}, {"--src", "02:00:00:00:00:01", "--dst", "02:00:00:00:00:02", "--json"},
			{evil, "198.51.100.2"}, {evil, "198.51.100.2", "--json"}, {"--live"}, {"--live", "--json"}},
		"overtap capture": {nil, {"--json"}, {"x" + evil}},
		"overtap top":     {{"--once", "--interval=100ms"}, {"--once", "--interval=100ms", "--view=drops"}, {"--once", "--interval=100ms", "--view=peers"}, {"--once", "--interval=100ms", "--view=fdb"}, {"--json", "--interval=100ms"}},
		"overtap reload":  {nil, {"--json"}, {"--dry-run"}},
		"overtap attach":  {{"blue", fmt.Sprint(os.Getpid()), "--address", "198.51.100.2/24"}, {"blue", fmt.Sprint(os.Getpid()), "--address", "198.51.100.2/24", "--json"}, {"blue", "x" + evil, "--address", "198.51.100.2/24"}},
		"overtap detach":  {{"blue", fmt.Sprint(os.Getpid())}, {"blue", "x" + evil}},
		"overtap check":   {{"--config", bad}, {"--config", "none" + evil}},
		"overtap doctor":  {{"--config", bad}},
	}
	var verbs []string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		if c.RunE != nil && (!c.HasSubCommands() || c.Flags().Lookup("socket") != nil) {
			verbs = append(verbs, path)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
	for _, verb := range verbs {
		if _, ok := asked[verb]; !ok && silentVerbs[verb] == "" {
			t.Errorf("%s is not tested, and nothing says why", verb)
		}
	}

	painted := regexp.MustCompile("\x1b\\[(0|1|31|32|33)m")
	for _, fail := range []bool{false, true} {
		d := &hostile{fakeDaemon: &fakeDaemon{full: true, probe: true}, fail: fail}
		ends := &hostile{fakeDaemon: &fakeDaemon{}, fail: fail} // its streams end
		sockets := make(map[*hostile]string)
		for i, one := range []*hostile{d, ends} {
			sockets[one] = serveAt(t, filepath.Join(dir, fmt.Sprint("s", fail, i)), one)
		}
		for verb, all := range asked {
			for _, args := range all {
				socket := sockets[d]
				if slices.Contains(args, "--live") || verb == "overtap capture" || verb == "overtap fdb monitor" {
					socket = sockets[ends]
				}
				line := append(strings.Fields(verb)[1:], args...)
				if verb != "overtap check" && verb != "overtap doctor" {
					line = append(line, "--socket", socket)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--watch") }) {
					ctx, cancel = context.WithTimeout(t.Context(), 250*time.Millisecond)
				}
				var stdout, stderr bytes.Buffer
				execute(ctx, line, &stdout, &stderr)
				cancel()
				if stdout.Len()+stderr.Len() == 0 {
					t.Errorf("%q printed nothing", line)
				}
				out := stdout.String()
				if slices.Contains(args, "--color=always") {
					out = painted.ReplaceAllString(out, "")
				}
				for _, text := range []string{out, stderr.String()} {
					if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' }); i >= 0 {
						t.Errorf("fail=%t %q prints %q", fail, line, text[max(0, i-60):min(len(text), i+60)])
					}
				}
			}
		}
	}
}

// serveAt serves the daemon at a path until the test ends.
func serveAt(t *testing.T, path string, d control.Daemon) string {
	t.Helper()
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, l, d, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// No line of the log acts on a terminal, in either format, by its message, a value
// or an error.
func TestLogEscapes(t *testing.T) {
	for _, format := range []config.LogFormat{config.LogText, config.LogJSON} {
		var b bytes.Buffer
		log := newLogger(&b, config.Log{Format: format})
		log.Warn("message "+evil, "name", evil, "err", errors.New(evil), evil, "key")
		log.With("network", evil).Info("ready")
		if b.Len() < 2*len(evil) {
			t.Fatalf("%s: %q", format, &b)
		}
		for _, r := range b.String() {
			if !unicode.IsPrint(r) && r != '\n' {
				t.Errorf("%s: %q passes in %q", format, r, &b)
			}
		}
	}
}
