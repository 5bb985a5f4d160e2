package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what the tests read of Grafana's form.
type dashboard struct {
	UID        string `json:"uid"`
	Templating struct {
		List []struct {
			Name     string `json:"name"`
			Type     string `json:"type"`
			AllValue string `json:"allValue"`
			// Query is a text of a data source, else an object with the text.
			Query any `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		ID      int    `json:"id"`
		Type    string `json:"type"`
		Title   string `json:"title"`
		GridPos struct{ H, W, X, Y int }
		Targets []struct {
			RefID  string `json:"refId"`
			Expr   string `json:"expr"`
			Legend string `json:"legendFormat"`
		} `json:"targets"`
	} `json:"panels"`
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var (
	metricName = regexp.MustCompile(`\b(?:overtap|process|go)_[a-z_]+\b`)
	selector   = regexp.MustCompile(`\b((?:overtap|process|go)_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=) *"([^"]*)"`)
	grouping   = regexp.MustCompile(`\b(?:by|on|ignoring|without) *\(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`)
	variable   = regexp.MustCompile(`\$(?:\{([a-zA-Z_]+)\}|([a-zA-Z_]+))`)
)

// scraped are the labels that Prometheus adds.
var scraped = []string{"instance", "job"}

// labelsOf are the labels of each metric of the page.
func labelsOf(t *testing.T) map[string][]string {
	t.Helper()
	labels := make(map[string][]string)
	for name, f := range families(t, fullPage(t)) {
		labels[name] = slices.Clone(scraped)
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels[name] = append(labels[name], l.GetName())
			}
		}
	}
	return labels
}

// Every metric, label and variable that the dashboard's queries and legends name
// exists.
func TestDashboardNamesWhatExists(t *testing.T) {
	d, labels := readDashboard(t), labelsOf(t)
	variables := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	for _, want := range []string{"datasource", "instance", "network"} {
		if !slices.Contains(variables, want) {
			t.Errorf("there is no variable %s", want)
		}
	}
	check := func(where, expr, legends string) {
		t.Helper()
		if metricName.FindString(expr) == "" {
			t.Errorf("%s: no metric in %s", where, expr)
		}
		var known []string
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			of, ok := labels[s[1]]
			if !ok {
				t.Errorf("%s: there is no metric %s", where, s[1])
			}
			known = append(known, of...)
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if !slices.Contains(of, m[1]) {
					t.Errorf("%s: %s has no label %s", where, s[1], m[1])
				}
			}
		}
		shown := known
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for l := range strings.SplitSeq(g[1], ",") {
				if l = strings.TrimSpace(l); !slices.Contains(known, l) {
					t.Errorf("%s: no metric of %s has the label %s", where, expr, l)
				}
			}
			if strings.Contains(expr, "by ("+g[1]+")") {
				shown = nil
				for l := range strings.SplitSeq(g[1], ",") {
					shown = append(shown, strings.TrimSpace(l))
				}
			}
		}
		for _, l := range legend.FindAllStringSubmatch(legends, -1) {
			if !slices.Contains(shown, l[1]) {
				t.Errorf("%s: the legend %s names a label that is not there", where, legends)
			}
		}
		for _, v := range variable.FindAllStringSubmatch(expr, -1) {
			if name := v[1] + v[2]; !slices.Contains(variables, name) {
				t.Errorf("%s: there is no variable %s", where, name)
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		q, _ := v.Query.(map[string]any)
		text, _ := q["query"].(string)
		inner, ok := strings.CutPrefix(strings.TrimSuffix(text, ", "+v.Name+")"), "label_values(")
		if !ok || inner == text {
			t.Errorf("variable %s: %q", v.Name, text)
		}
		check("variable "+v.Name, inner, "{{"+v.Name+"}}")
		if v.AllValue != ".*" {
			t.Errorf("variable %s: all of them leave out what has none", v.Name)
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr, target.Legend)
		}
	}
}

// What an operator asks has a panel; panels lie beside each other and not over.
func TestDashboardIsWhole(t *testing.T) {
	d := readDashboard(t)
	var all strings.Builder
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %s: the id %d is another's", p.Title, p.ID)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("panel %s lies at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panel %s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %s: a %s with %d queries", p.Title, p.Type, len(p.Targets))
		}
		for _, target := range p.Targets {
			all.WriteString(target.Expr + "\n")
		}
	}
	for name := range labelsOf(t) {
		if strings.HasPrefix(name, "overtap_") && !strings.Contains(all.String(), name) {
			t.Errorf("no panel shows %s", name)
		}
	}
	for _, want := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "by (direction, reason)"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no panel shows %s", want)
		}
	}
}
