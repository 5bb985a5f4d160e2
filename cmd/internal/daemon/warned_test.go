package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// What is probably not meant is logged at the start, and at a reload when the file did
// not hold it before.
func TestConfigurationWarnings(t *testing.T) {
	underlay(t)
	r, o := prepare(t, twoNetworks)
	file := filepath.Join(t.TempDir(), "overtap.toml")
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("# a line more\n[underlay]\naddress = \"192.0.2.1\"\n[control]\nsocket = %q\nmetrics = \"127.0.0.1:9472\"\n%s%s", r.socket, twoNetworks, more)
		do(t, os.WriteFile(file, []byte(text), 0o600))
	}
	o.Path = file
	start(t, r, o)
	const log = "the configuration holds what is probably not meant"
	said := func(want int) {
		t.Helper()
		if n := r.said(log); n != want {
			t.Errorf("logged %d times, want %d:\n%s", n, want, r.log)
		}
	}
	said(1) // red has no peers
	for _, c := range []struct {
		more string
		want int
	}{
		{"", 1},
		{"learning = false\n", 2},
		{"learning = false\n", 2},
		{"", 2},
		{"learning = false\n", 3},
	} {
		write(c.more)
		_, err := r.client.Reload(t.Context(), false)
		do(t, err)
		said(c.want)
	}
	write("suppress = true\n")
	_, err := r.client.Reload(t.Context(), true)
	do(t, err)
	said(3) // a dry run changes nothing
	do(t, r.end(t))
}
