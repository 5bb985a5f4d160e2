package metrics

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// promtool runs Prometheus' own checker, which must have nothing to say. Without it
// the test is skipped, or fails when the environment says REQUIRE_ROOT=1.
func promtool(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("there is no promtool, and REQUIRE_ROOT=1 forbids to skip: it is in Debian's package prometheus")
		}
		t.Skip("there is no promtool: it is in Debian's package prometheus")
	}
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestPromtoolTakesPage(t *testing.T) {
	if out := promtool(t, fullPage(t), "check", "metrics"); out != "" {
		t.Errorf("of the page it says:\n%s", out)
	}
}

func TestPromtoolTakesAlerts(t *testing.T) {
	promtool(t, "", "check", "rules", "../../../docs/alerts.yml")
}

// Each alert is raised by what it is for, and by nothing beside it.
func TestPromtoolRaisesAlerts(t *testing.T) {
	const tests = "testdata/alerts_test.yml"
	text, err := os.ReadFile(tests)
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile("../../../docs/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (.*)$`).FindAllStringSubmatch(string(alerts), -1) {
		if !strings.Contains(string(text), "alertname: "+m[1]+"\n") {
			t.Errorf("%s does not test %s", tests, m[1])
		}
	}
	promtool(t, "", "test", "rules", tests)
}

// Every query of the dashboard is one that Prometheus understands.
func TestPromtoolTakesDashboard(t *testing.T) {
	values := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$network", ".*")
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	n := 0
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			n++
			fmt.Fprintf(&rules, "      - record: dashboard:query%d\n        expr: %q\n", n, values.Replace(target.Expr))
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := promtool(t, "", "check", "rules", file); !strings.Contains(out, fmt.Sprintf("%d rules found", n)) || n < 20 {
		t.Errorf("of %d queries: %s", n, out)
	}
}
