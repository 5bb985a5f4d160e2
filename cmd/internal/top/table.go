package top

import (
	"cmp"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// column is one column of a table.
type column struct {
	title string
	least int // width in cells below which it is left out
	most  int // width beyond which it does not grow
	right bool
	// rank says what goes first where all do not fit: the highest.
	rank int
	// down: what is ordered by this column begins with the largest.
	down bool
}

// cell is one value of a row: text, or a number that form writes, or the last
// minute of a rate with its mean as the number.
type cell struct {
	text    string
	num     float64
	form    func(float64) string
	history *history
}

func text(s string) cell                               { return cell{text: clean(s)} }
func number(v float64, form func(float64) string) cell { return cell{num: v, form: form} }
func known(v float64, is bool, f func(float64) string) cell {
	if !is {
		return text("-")
	}
	return number(v, f)
}

// lastMinute is the cell of a history that may not be there yet.
func lastMinute(h *history) cell {
	if h == nil {
		h = newHistory()
	}
	return cell{num: h.mean(), history: h}
}

// write returns the cell's text for a column of the width.
func (c *cell) write(width int, glyphs []string) string {
	switch {
	case c.history != nil:
		return c.history.sparkline(width, glyphs)
	case c.form != nil:
		return c.form(c.num)
	}
	return c.text
}

func (c *cell) compare(o *cell) int {
	return cmp.Or(cmp.Compare(c.num, o.num), strings.Compare(c.text, o.text))
}

// row is one row of a table.
type row struct {
	cells  []cell
	search string // what a filter looks into, in lower case
	alarm  bool   // worth a look
}

// table is what a view shows.
type table struct {
	columns []column
	rows    []row // in the order of their keys
}

// searchable makes what a filter looks into of a row's texts.
func searchable(texts ...string) string { return strings.ToLower(strings.Join(texts, " ")) }

// pick returns the rows that contain the text, ordered by a column; those alike
// in it in the order of their keys.
func (t *table) pick(contains string, by int, reverse bool) []*row {
	contains = strings.ToLower(contains)
	var picked []*row
	for i := range t.rows {
		if strings.Contains(t.rows[i].search, contains) {
			picked = append(picked, &t.rows[i])
		}
	}
	if t.columns[by].down {
		reverse = !reverse
	}
	slices.SortStableFunc(picked, func(a, b *row) int {
		c := a.cells[by].compare(&b.cells[by])
		if reverse {
			return -c
		}
		return c
	})
	return picked
}

// gap stands between two columns.
const gap = 1

// fit returns the width of each column, 0 = it is left out, so that all of them
// and the gaps between them take the given width at most. rows are those shown.
func (t *table) fit(width int, rows []*row) []int {
	widths := make([]int, len(t.columns))
	wants := make([]int, len(t.columns))
	used := -gap
	for i := range t.columns {
		c := &t.columns[i]
		wants[i] = ansi.StringWidth(c.title)
		if c.history() {
			wants[i] = c.most
		} else {
			for _, r := range rows {
				if cell := &r.cells[i]; cell.form == nil {
					wants[i] = max(wants[i], ansi.StringWidth(cell.text))
				}
			}
		}
		wants[i] = max(min(wants[i], c.most), c.least)
		widths[i] = c.least
		used += c.least + gap
	}
	for used > width {
		worst := -1
		for i, w := range widths {
			if w > 0 && (worst < 0 || t.columns[i].rank >= t.columns[worst].rank) {
				worst = i
			}
		}
		if worst < 0 {
			break
		}
		used -= widths[worst] + gap
		widths[worst] = 0
	}
	// What is left over goes to those that want it, the most important first.
	order := make([]int, len(widths))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(t.columns[a].rank, t.columns[b].rank) })
	for _, i := range order {
		if widths[i] == 0 {
			continue
		}
		more := min(wants[i]-widths[i], width-used)
		if t.columns[i].history() {
			more = historyWidth(widths[i]+more) - widths[i]
		}
		widths[i] += more
		used += more
	}
	return widths
}

// historyTitle heads the columns of histories.
const historyTitle = "LAST MINUTE"

func (c *column) history() bool { return c.title == historyTitle }

// historyWidth returns the largest width, at most as given, in which a history's
// columns fall into equal groups; its title always fits.
func historyWidth(most int) int {
	switch {
	case most >= columns:
		return columns
	case most >= columns/2:
		return columns / 2
	}
	return len(historyTitle)
}
