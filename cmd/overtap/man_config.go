package main

import (
	"regexp"
	"strings"

	"overtap/docs"
)

// Markdown in docs/configuration.md.
var (
	mdLink = regexp.MustCompile(`\[([^]]+)\]\([^)]+\)`)
	mdBold = regexp.MustCompile(`\*\*(.+?)\*\*`)
	mdRow  = regexp.MustCompile("^\\| `(.+?)` \\| (.*?) \\| (.*?) \\| (.*?) \\| (.*) \\|$")
)

// configPage is overtap.toml(5), made of the reference of the configuration.
func configPage() string {
	p := newPage("overtap.toml", "5", "configuration of overtap(8)")
	p.section("DESCRIPTION")
	for line := range strings.SplitSeq(docs.Configuration, "\n") {
		line = mdBold.ReplaceAllString(mdLink.ReplaceAllString(line, "$1"), "`$1`")
		title, isTable := strings.CutPrefix(line, "## ")
		item, isItem := strings.CutPrefix(line, "- ")
		m := mdRow.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "# "), strings.HasPrefix(line, "<!--"), strings.HasPrefix(line, "| "):
			if m == nil {
				continue
			}
			if m[3] != "required" {
				m[3] = "default: " + m[3]
			}
			p.term(m[1], strings.Join([]string{m[2], m[3], "reload: " + m[4]}, "; ")+".")
			p.line(".IP\n%s", marked(m[5]))
		case isTable:
			p.section("\"" + roff(strings.Trim(title, "`")) + "\"")
		case isItem:
			p.line(".IP \\(bu 2\n%s", marked(item))
		case line == "":
			p.line(".PP")
		default:
			p.line("%s", marked(strings.TrimPrefix(line, "  ")))
		}
	}
	p.section("FILES")
	p.term(defaultConfig, "the configuration of the daemon, unless its command line names another")
	p.section("SEE ALSO")
	p.line("\\fBovertap\\fR(8), \\fBovertap\\-check\\fR(8), \\fBovertap\\-reload\\fR(8)")
	return p.String()
}
