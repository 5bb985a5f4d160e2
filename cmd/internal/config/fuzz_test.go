package config

import (
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"overtap/encap"
)

// FuzzParse checks on any text that what is refused is refused with located
// errors, that what is accepted can be acted upon, and that the scanner finds
// the keys where the TOML parser does.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, examplePath) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(full))
	f.Fuzz(func(t *testing.T, text []byte) {
		var values map[string]any
		root, again := scan(string(text)) // must end on whatever it is
		if _, err := toml.Decode(string(text), &values); err == nil && utf8.Valid(text) && len(again) == 0 {
			checkScan(t, root, values)
		}

		cfg, err := Parse("fuzz", text)
		if err != nil {
			checkErrors(t, err, text)
			return
		}
		// No network asks for more than the largest packet carries.
		d, err := cfg.Desired(65535)
		if err != nil {
			t.Fatalf("valid, but: %v", err)
		}
		if len(d.Networks) != len(cfg.VXLAN) {
			t.Fatalf("%d networks of %d", len(d.Networks), len(cfg.VXLAN))
		}
		for _, n := range d.Networks {
			if n.Name == "" || n.Device == "" || !n.MAC.IsSource() || n.MTU < encap.MinOverlayMTU4 || n.Port == 0 || n.TTL == 0 || n.MaxEntries < 1 {
				t.Errorf("not complete: %+v", n)
			}
		}
	})
}
