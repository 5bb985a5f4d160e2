package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every configuration in the documents is one that is taken.
func TestConfigurationsInDocs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var block strings.Builder
		try := func() {
			toml := block.String()
			block.Reset()
			if !strings.Contains(toml, "[[vxlan]]") {
				return
			}
			seen++
			if !strings.Contains(toml, "[underlay]") {
				toml = "[underlay]\naddress = \"192.0.2.1\"\n" + toml
			}
			if _, err := Parse(filepath.Base(file), []byte(toml)); err != nil {
				t.Errorf("%v\n%s", err, toml)
			}
		}
		for line := range strings.Lines(string(text)) {
			switch code, ok := strings.CutPrefix(line, "    "); {
			case ok:
				block.WriteString(code)
			case strings.TrimSpace(line) == "":
				block.WriteString("\n")
			default:
				try()
			}
		}
		try()
	}
	if seen < 2 {
		t.Errorf("only %d configurations in %v", seen, files)
	}
}
