package top

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// View is one of the tables.
type View int

// The views.
const (
	Networks View = iota
	Peers
	Drops
	FDB
	views
)

var viewNames = [views]string{"networks", "peers", "drops", "fdb"}

// String returns the view's name.
func (v View) String() string { return viewNames[v] }

// ViewNames returns the names of all views.
func ViewNames() []string { return viewNames[:] }

// ParseView finds a view by its name.
func ParseView(name string) (View, bool) {
	i := slices.Index(viewNames[:], name)
	return View(i), i >= 0
}

// bits, packets and so on are columns that several views have.
func rateColumns() []column {
	return []column{
		{title: "TX BIT/S", least: 8, most: 8, right: true, down: true, rank: 2},
		{title: "TX PKT/S", least: 8, most: 8, right: true, down: true, rank: 6},
		{title: "RX BIT/S", least: 8, most: 8, right: true, down: true, rank: 2},
		{title: "RX PKT/S", least: 8, most: 8, right: true, down: true, rank: 6},
	}
}

var historyColumn = column{title: historyTitle, least: len(historyTitle), most: columns, rank: 5, down: true}

// names are as long as their longest, within bounds.
func names(title string, least, most, rank int) column {
	return column{title: title, least: least, most: most, rank: rank}
}

var headers = [views][]column{
	Networks: slices.Concat(
		[]column{names("NETWORK", 8, 40, 0)}, rateColumns(),
		[]column{
			{title: "DROP/S", least: 6, most: 6, right: true, down: true, rank: 3},
			{title: "FDB", least: 7, most: 7, right: true, down: true, rank: 4},
			{title: "FULL", least: 4, most: 4, right: true, down: true, rank: 7},
			historyColumn,
		}),
	Peers: slices.Concat(
		[]column{names("NETWORK", 8, 40, 1), names("PEER", 15, 39, 0)}, rateColumns(),
		[]column{{title: "PMTU", least: 5, most: 5, right: true, rank: 7}, historyColumn}),
	Drops: {
		names("NETWORK", 8, 40, 3), names("WAY", 8, 8, 4), names("REASON", 14, 24, 0),
		{title: "DROP/S", least: 6, most: 6, right: true, down: true, rank: 1},
		{title: "DROPPED", least: 7, most: 7, right: true, down: true, rank: 2},
		names("LAST PEER", 15, 39, 3), {title: "AGO", least: 7, most: 7, right: true, rank: 6},
		historyColumn, names("WHY", 12, 90, 8),
	},
	FDB: {
		names("NETWORK", 8, 40, 3), names("MAC", 17, 17, 0), names("PEER", 15, 39, 1),
		names("ORIGIN", 8, 16, 4), {title: "AGE", least: 7, most: 7, right: true, rank: 2, down: true}, names("STATE", 6, 6, 5),
	},
}

// fdbOrders are the daemon's words for the columns of the FDB; it does not order
// by the state.
var fdbOrders = []string{"network", "mac", "peer", "origin", "age"}

// firstOrder is the column that a view is ordered by at first.
var firstOrder = [views]int{
	Networks: len(headers[Networks]) - 1,
	Peers:    len(headers[Peers]) - 1,
	Drops:    3,
	FDB:      0,
}

// orders returns how many columns of the view it can be ordered by.
func (v View) orders() int {
	if v == FDB {
		return len(fdbOrders)
	}
	return len(headers[v])
}

// tableOf makes the table of a view but the FDB of rates and their histories.
func tableOf(v View, r *Rates, recorded map[string]*history, now time.Time) table {
	t := table{columns: headers[v]}
	has := r.Seconds > 0
	traffic := func(x *Rate) []cell {
		return []cell{known(x.TxBits, has, si), known(x.TxPackets, has, si), known(x.RxBits, has, si), known(x.RxPackets, has, si)}
	}
	switch v {
	case Networks:
		for i := range r.Networks {
			n := &r.Networks[i]
			full := math.NaN()
			if n.EntriesMax > 0 {
				full = float64(n.Entries) / float64(n.EntriesMax)
			}
			t.rows = append(t.rows, row{
				cells: slices.Concat([]cell{text(n.Network)}, traffic(&n.Rate), []cell{
					known(n.Drops, has, si), number(float64(n.Entries), count), known(full, full == full, percent), lastMinute(recorded[n.key()])}),
				search: searchable(n.Network, string(n.Kind)), alarm: n.Drops > 0,
			})
		}
	case Peers:
		for i := range r.Peers {
			p := &r.Peers[i]
			peer := p.Peer.String()
			t.rows = append(t.rows, row{
				cells: slices.Concat([]cell{text(p.Network), {text: peer}}, traffic(&p.Rate),
					[]cell{known(float64(p.PathMTU), p.PathMTU != 0, count), lastMinute(recorded[p.key()])}),
				search: searchable(p.Network, peer),
			})
		}
	case Drops:
		for i := range r.Drops {
			d := &r.Drops[i]
			t.rows = append(t.rows, row{
				cells: []cell{text(orDash(d.Network)), text(d.Direction), text(d.Reason), known(d.Rate, has, si), number(float64(d.Count), count),
					text(d.lastPeer()), known(now.Sub(d.Last).Seconds(), !d.Last.IsZero(), ago), lastMinute(recorded[d.key()]), text(d.text)},
				search: searchable(d.Network, d.Direction, d.Reason, d.lastPeer()), alarm: d.Rate > 0,
			})
		}
	}
	return t
}

// fdbTable makes the table of a page of the FDB.
func fdbTable(p *control.FDBPage) table {
	t := table{columns: headers[FDB]}
	for i := range p.Entries {
		e := &p.Entries[i]
		t.rows = append(t.rows, row{cells: fdbCells(e), alarm: e.Frozen})
	}
	return t
}

func fdbCells(e *dataplane.FDBEntry) []cell {
	ago, state := "-", ""
	if e.Origin == "learned" {
		ago = age(time.Duration(e.Age) * time.Second)
	}
	if e.Frozen {
		state = "frozen"
	}
	return []cell{text(e.Network), {text: e.MAC.String()}, {text: e.Peer.String()}, text(e.Origin), text(ago), text(state)}
}

// lastPeer is who sent the last frame or, outbound, whom it was for.
func (d *Drop) lastPeer() string {
	if !d.LastPeer.IsValid() {
		return "-"
	}
	return d.LastPeer.String()
}

// ago writes how many seconds have passed.
func ago(seconds float64) string { return age(time.Duration(max(seconds, 0) * float64(time.Second))) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if s, ok := strings.CutSuffix(thing, "y"); ok {
		thing = s + "ie"
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
