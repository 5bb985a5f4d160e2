package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"overtap/cmd/internal/lab"
	"overtap/dataplane"
)

// The README's table of drop reasons names each once, and nothing else.
func TestReadmeNamesEveryDrop(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	const header = "| reason | way | what it means | what to do |\n"
	_, rest, found := strings.Cut(string(text), header)
	if !found {
		t.Fatalf("README.md has no table with the header %s", header)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	named := make(map[string]int)
	for _, line := range strings.Split(table, "\n")[1:] { // after the rule
		m := regexp.MustCompile("^\\| `([a-z_]+)` \\|").FindStringSubmatch(line)
		if m == nil {
			t.Errorf("a row without a reason: %s", line)
			continue
		}
		named[m[1]]++
	}
	for _, d := range dataplane.Drops() {
		if n := named[d.String()]; n != 1 {
			t.Errorf("%s is named %d times", d, n)
		}
		delete(named, d.String())
	}
	for name := range named {
		t.Errorf("%s is no reason that the engine knows", name)
	}
}

// The README's table of labs names each once, and nothing else, in the order of
// `lab list`.
func TestReadmeNamesEveryLab(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	const header = "| lab | what it shows | keys |\n"
	_, rest, found := strings.Cut(string(text), header)
	if !found {
		t.Fatalf("README.md has no table with the header %s", header)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	var named []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(table, -1) {
		named = append(named, m[1])
	}
	if !slices.Equal(named, lab.Names()) {
		t.Errorf("README.md has the labs %v, want %v", named, lab.Names())
	}
}

// docs/troubleshooting.md has a section for each drop, and no other by drop.
func TestTroubleshootingNamesEveryDrop(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, byDrop, found := strings.Cut(string(text), "\n## By drop\n")
	if !found {
		t.Fatal("docs/troubleshooting.md has no part “By drop”")
	}
	var named, want []string
	for _, section := range strings.Split(byDrop, "\n### ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		named = append(named, title)
		if way := regexp.MustCompile(`^\n(In|Out|Both)\. `); !way.MatchString(body) || len(body) < 60 {
			t.Errorf("%s: want which way, what it means and what to do: %q", title, body)
		}
	}
	for _, d := range dataplane.Drops() {
		want = append(want, d.String())
	}
	slices.Sort(named)
	slices.Sort(want)
	if !slices.Equal(named, want) {
		t.Errorf("docs/troubleshooting.md has sections for %v, want %v", named, want)
	}
}
