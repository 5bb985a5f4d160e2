package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/lab"
	"overtap/dataplane"
)

// document reads a document by its path from the module's root.
func document(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows returns the rows of the table with a header, without the rule below it.
func rows(t *testing.T, text, header string) []string {
	t.Helper()
	_, rest, found := strings.Cut(text, header)
	if !found {
		t.Fatalf("there is no table with the header %s", header)
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	return strings.Split(table, "\n")[1:]
}

// Every link of a document leads to a file, or to a heading of one.
func TestLinksLeadSomewhere(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:\s]*)(?:#([^)\s]*))?\)`)
	heading := regexp.MustCompile("(?m)^#+ (.+)$")
	unmarked := regexp.MustCompile("[^a-z0-9 _-]")
	links := 0
	for _, path := range append(paths, filepath.Join("..", "..", "README.md")) {
		for _, m := range link.FindAllStringSubmatch(document(t, strings.TrimPrefix(path, "../../")), -1) {
			links++
			target := path
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(path), m[1])
			}
			text, err := os.ReadFile(target)
			if info, serr := os.Stat(target); serr != nil || err != nil && !info.IsDir() {
				t.Errorf("%s has a link to %s: %v", path, m[1], err)
			}
			found := m[2] == ""
			for _, h := range heading.FindAllStringSubmatch(string(text), -1) {
				found = found || strings.ReplaceAll(unmarked.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-") == m[2]
			}
			if !found {
				t.Errorf("%s has a link to %s#%s, which has no such heading", path, m[1], m[2])
			}
		}
	}
	if links < 80 {
		t.Errorf("looked at %d links only", links)
	}
}

// The README stays short.
func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(document(t, "README.md"), "\n"); n > 180 {
		t.Errorf("README.md has %d lines, want at most 180", n)
	}
}

// The configurations of the README and of the first guide are sound.
func TestConfigurationsOfTheFirstSteps(t *testing.T) {
	blocks := []string{}
	for i, block := range strings.Split(document(t, "README.md"), "```") {
		if toml, ok := strings.CutPrefix(block, "toml\n"); ok && i%2 == 1 {
			blocks = append(blocks, toml)
		}
	}
	indented := regexp.MustCompile(`(?m)(?:^    .*\n|^\n)+`)
	for _, block := range indented.FindAllString(document(t, "docs", "getting-started.md"), -1) {
		if strings.Contains(block, "[underlay]") {
			blocks = append(blocks, block)
		}
	}
	if len(blocks) < 3 {
		t.Errorf("there are %d configurations only", len(blocks))
	}
	for _, toml := range blocks {
		if _, err := config.Parse("document", []byte(toml)); err != nil {
			t.Errorf("%v\n%s", err, toml)
		}
	}
}

// The table of labs in the README names each once, and nothing else, in the order
// of `lab list`.
func TestReadmeNamesEveryLab(t *testing.T) {
	var named []string
	for _, row := range rows(t, document(t, "README.md"), "| lab | what it shows | keys |\n") {
		if m := regexp.MustCompile("^\\| `([a-z-]+)` \\|").FindStringSubmatch(row); m != nil {
			named = append(named, m[1])
		}
	}
	if !slices.Equal(named, lab.Names()) {
		t.Errorf("README.md has the labs %v, want %v", named, lab.Names())
	}
}

// The path of a frame is drawn once in all documents, with the points of a capture.
func TestOneDrawingOfThePath(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var drawn []string
	for _, path := range append(paths, filepath.Join("..", "..", "README.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(text), "```") {
			if i%2 == 1 && strings.Contains(block, "TAP") && strings.Contains(block, "underlay") && strings.ContainsAny(block, "▶▼▲◀") {
				drawn = append(drawn, path)
				for _, point := range points() {
					if !strings.Contains(block, point) {
						t.Errorf("the drawing in %s lacks the point %s", path, point)
					}
				}
			}
		}
	}
	if len(drawn) != 1 {
		t.Errorf("the path is drawn in %v, want one document", drawn)
	}
}

// The table of drops in docs/troubleshooting.md names each once, and nothing else,
// with a section for each that says the same direction.
func TestTroubleshootingNamesEveryDrop(t *testing.T) {
	_, byDrop, found := strings.Cut(document(t, "docs", "troubleshooting.md"), "\n## By drop\n")
	if !found {
		t.Fatal("docs/troubleshooting.md has no part “By drop”")
	}
	ways := make(map[string]string)
	var inTable, sections, want []string
	for _, row := range rows(t, byDrop, "| reason | way | what it means | what to do |\n") {
		m := regexp.MustCompile("^\\| \\[`([a-z0-9_]+)`\\]\\(#([a-z0-9_]+)\\) \\| (in|out|both) \\| .{8,} \\| .{7,} \\|$").FindStringSubmatch(row)
		if m == nil || m[1] != m[2] {
			t.Errorf("want a reason that links to its section, the way, what it means and what to do: %s", row)
			continue
		}
		inTable = append(inTable, m[1])
		ways[m[1]] = m[3]
	}
	for _, section := range strings.Split(byDrop, "\n### ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		sections = append(sections, title)
		if m := regexp.MustCompile(`^\n(In|Out|Both)\. `).FindStringSubmatch(body); m == nil || strings.ToLower(m[1]) != ways[title] || len(body) < 60 {
			t.Errorf("%s: want the way that the table has (%s), what it means and what to do: %q", title, ways[title], body)
		}
	}
	for _, d := range dataplane.Drops() {
		want = append(want, d.String())
	}
	slices.Sort(want)
	for what, named := range map[string][]string{"rows": inTable, "sections": sections} {
		slices.Sort(named)
		if !slices.Equal(named, want) {
			t.Errorf("docs/troubleshooting.md has %s for %v, want %v", what, named, want)
		}
	}
}
