package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"overtap/docs"
)

// verbs calls f for overtap and each verb below it that a user may call.
func verbs(f func(c *cobra.Command)) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		f(c)
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub)
			}
		}
	}
	walk(newRootCommand())
}

// The help of every verb has one or two examples, which are of that verb and name
// no flag that it lacks.
func TestEveryVerbHasExamples(t *testing.T) {
	n := 0
	verbs(func(c *cobra.Command) {
		n++
		examples := strings.Split(strings.ReplaceAll(c.Example, "\\\n", ""), "\n")
		if c.Example == "" || len(examples) > 2 {
			t.Errorf("%s has the examples %q, want one or two", c.CommandPath(), c.Example)
		}
		for _, line := range examples {
			own := c.CommandPath()
			if !c.HasParent() {
				own = "overtap"
			}
			if !strings.Contains(line, own) || !strings.HasPrefix(line, "  ") {
				t.Errorf("%s has the example %q, which is not of it", c.CommandPath(), line)
			}
			of, _, _ := strings.Cut(line, "|")
			of, _, _ = strings.Cut(of, " -- ")
			for _, m := range regexp.MustCompile(`\s--([a-z-]+)`).FindAllStringSubmatch(of, -1) {
				if c.Flags().Lookup(m[1]) == nil && c.HasParent() {
					t.Errorf("%s has no flag --%s: %q", c.CommandPath(), m[1], line)
				}
			}
		}
		var out bytes.Buffer
		if code := execute(t.Context(), append(strings.Fields(c.CommandPath())[1:], "--help"), &out, &out); code != exitOK || !strings.Contains(out.String(), "\nExamples:\n  ") {
			t.Errorf("%s --help: exit code %d, %s", c.CommandPath(), code, &out)
		}
	})
	if n < 30 {
		t.Errorf("looked at %d verbs only", n)
	}
}

// A manual page has each option once, by its dashes; groff takes the page.
func TestManualPages(t *testing.T) {
	groff, err := exec.LookPath("groff")
	pages := map[string]string{"overtap.toml.5": configPage()}
	verbs(func(c *cobra.Command) {
		text := verbPage(c)
		pages[pageName(c)+".8"] = text
		_, options, _ := strings.Cut(text, "\n.SH OPTIONS\n")
		options, _, _ = strings.Cut(options, "\n.SH ")
		var named, want []string
		for _, m := range regexp.MustCompile(`(?m)^\.TP\n(?:\\fB\\-\w\\fR, )?\\fB\\-\\-([a-z\\-]+)\\fR`).FindAllStringSubmatch(options, -1) {
			named = append(named, strings.ReplaceAll(m[1], `\`, ""))
		}
		c.Flags().VisitAll(func(f *pflag.Flag) { want = append(want, f.Name) })
		if !slices.Equal(named, want) {
			t.Errorf("the page of %s has the options %q, want %q", c.CommandPath(), named, want)
		}
		if strings.Contains(text, "[=false]") || !strings.Contains(text, "\n.SH EXIT STATUS\n") || !strings.Contains(text, "\n.SH EXAMPLES\n.EX\n") {
			t.Errorf("the page of %s:\n%s", c.CommandPath(), text)
		}
	})
	for name, text := range pages {
		if m := regexp.MustCompile(`(^|[^\\])-`).FindString(text); m != "" {
			t.Errorf("%s has a dash that is typeset as a hyphen: %q", name, m)
		}
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), groff, "-k", "-man", "-ww", "-Tutf8", "-z")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// overtap.toml(5) has every table and every key of the reference.
func TestConfigPage(t *testing.T) {
	page := configPage()
	keys, tables := 0, 0
	for line := range strings.Lines(docs.Configuration) {
		if m := mdRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			keys++
			if !strings.Contains(page, "\n.TP\n\\fB"+m[1]+"\\fR\n") {
				t.Errorf("the page lacks the key %s", m[1])
			}
		}
		if title, ok := strings.CutPrefix(line, "## `"); ok {
			tables++
			if !strings.Contains(page, "\n.SH \""+strings.TrimSuffix(title, "`\n")+"\"\n") {
				t.Errorf("the page lacks the table %s", title)
			}
		}
	}
	if keys < 60 || tables < 10 || strings.Count(page, "\n.TP\n") != keys+1 {
		t.Errorf("%d keys and %d tables in the reference, %d in the page", keys, tables, strings.Count(page, "\n.TP\n")-1)
	}
}
