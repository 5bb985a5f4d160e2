package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"overtap/dataplane"
)

// Every metric and every drop reason in the alert rules exists.
func TestAlertsNameWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	page := fullPage(t)
	reasons := make(map[string]bool)
	for _, d := range dataplane.Drops() {
		reasons[d.String()] = true
	}
	exprs := regexp.MustCompile(`(?m)^ +expr: (.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(exprs) < 8 {
		t.Errorf("only %d rules", len(exprs))
	}
	for _, m := range exprs {
		for _, name := range regexp.MustCompile(`overtap_[a-z_]+`).FindAllString(m[1], -1) {
			if !strings.Contains(page, "\n"+name+"{") && !strings.Contains(page, "\n"+name+" ") {
				t.Errorf("%s: there is no metric %s", m[1], name)
			}
		}
		for _, r := range regexp.MustCompile(`reason=~?"([^"]*)"`).FindAllStringSubmatch(m[1], -1) {
			pattern := regexp.MustCompile("^(" + r[1] + ")$")
			for _, part := range strings.Split(r[1], "|") {
				one := regexp.MustCompile("^(" + part + ")$")
				found := false
				for name := range reasons {
					found = found || one.MatchString(name) && pattern.MatchString(name)
				}
				if !found {
					t.Errorf("%s: there is no drop reason %s", m[1], part)
				}
			}
		}
	}
}
