package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newManCommand() *cobra.Command {
	var section string
	c := &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the manual pages to a directory",
		Long: `Write a manual page for each verb to a directory, which is made where it is missing.
With --section 5 it is the page of the configuration, overtap.toml(5).`,
		Example: `  overtap man /usr/local/share/man/man8
  overtap man --section 5 /usr/local/share/man/man5`,
		Args: exactly("DIRECTORY"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("making the directory for manual pages: %w", err)
			}
			pages := map[string]string{"overtap.toml.5": configPage()}
			if section != "5" {
				pages = verbPages(c.Root())
			}
			for name, text := range pages {
				if err := os.WriteFile(filepath.Join(args[0], name), []byte(text), 0o644); err != nil {
					return fmt.Errorf("writing manual pages: %w", err)
				}
			}
			return nil
		},
	}
	addOneOf(c, &section, []string{"8", "5"}, "section", "`SECTION` of the manual (default 8)")
	return c
}

// verbPages are the pages of c and the verbs below it, by file name.
func verbPages(c *cobra.Command) map[string]string {
	pages := map[string]string{pageName(c) + ".8": verbPage(c)}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			for name, text := range verbPages(sub) {
				pages[name] = text
			}
		}
	}
	return pages
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// verbPage is the page of a verb.
func verbPage(c *cobra.Command) string {
	c.InitDefaultHelpFlag()
	p := newPage(pageName(c), "8", c.Short)
	p.section("SYNOPSIS")
	p.line("\\fB%s\\fR", roff(c.UseLine()))
	p.section("DESCRIPTION")
	p.text(cmp.Or(c.Long, c.Short))
	if c.HasAvailableFlags() {
		p.section("OPTIONS")
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			p.option(f)
		}
	})
	p.section("EXIT STATUS")
	for code, meaning := range exitCodes {
		if code != exitNotReady || c.Name() == "status" || !c.HasParent() {
			p.term(fmt.Sprint(code), meaning)
		}
	}
	p.section("EXAMPLES")
	p.verbatim(c.Example)
	p.section("SEE ALSO")
	also := []string{"\\fBovertap.toml\\fR(5)"}
	if c.HasParent() {
		also = append(also, fmt.Sprintf("\\fB%s\\fR(8)", roff(pageName(c.Parent()))))
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			also = append(also, fmt.Sprintf("\\fB%s\\fR(8)", roff(pageName(sub))))
		}
	}
	p.line("%s", strings.Join(also, ",\n"))
	return p.String()
}

// page is a manual page in the language of man(7).
type page struct{ strings.Builder }

func newPage(name, section, what string) *page {
	p := &page{}
	p.line(`.TH "%s" "%s" "" "overtap %s" "overtap"`, roff(strings.ToUpper(name)), section, roff(buildVersion()))
	p.section("NAME")
	p.line("%s \\- %s", roff(name), roff(what))
	return p
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *page) section(title string) { p.line(".SH %s", title) }

// text writes paragraphs; lines that are indented stay as they are.
func (p *page) text(text string) {
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		p.line(".PP")
		var indented []string
		for line := range strings.SplitSeq(block, "\n") {
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				indented = append(indented, line)
				continue
			}
			p.verbatim(strings.Join(indented, "\n"))
			indented = nil
			p.line("%s", marked(line))
		}
		p.verbatim(strings.Join(indented, "\n"))
	}
}

// verbatim writes lines as they are.
func (p *page) verbatim(text string) {
	if text != "" {
		p.line(".EX\n%s\n.EE", roff(text))
	}
}

// term writes what a word means.
func (p *page) term(word, meaning string) {
	p.line(".TP\n\\fB%s\\fR\n%s", roff(word), marked(meaning))
}

// option writes a flag with its names, the name of its value and its default.
func (p *page) option(f *pflag.Flag) {
	value, usage := pflag.UnquoteUsage(f)
	names := "\\fB" + roff("--"+f.Name) + "\\fR"
	if f.Shorthand != "" {
		names = "\\fB" + roff("-"+f.Shorthand) + "\\fR, " + names
	}
	switch {
	case value == "":
	case f.NoOptDefVal != "":
		names += "[=\\fI" + roff(value) + "\\fR]"
	default:
		names += " \\fI" + roff(value) + "\\fR"
	}
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
	default:
		usage += " (default " + f.DefValue + ")"
	}
	p.line(".TP\n%s\n%s", names, marked(usage))
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "\n.", "\n\\&.", "^", `\(ha`, "~", `\(ti`)

// roff escapes text: a dash stays one, so that an option can be searched for and copied.
func roff(text string) string {
	return strings.TrimPrefix(roffEscapes.Replace("\n"+text), "\n")
}

// marked is roff for text in which code stands between backquotes.
func marked(text string) string {
	parts := strings.Split(text, "`")
	for i := range parts {
		parts[i] = roff(parts[i])
		if i%2 == 1 {
			parts[i] = "\\fB" + parts[i] + "\\fR"
		}
	}
	return strings.Join(parts, "")
}
