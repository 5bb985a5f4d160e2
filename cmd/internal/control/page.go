package control

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"overtap/dataplane"
)

// MaxPaged is how far into a forwarding table pages go, in entries: the daemon
// holds no more of it for an answer.
const MaxPaged = 10_000

// FDBOrders are what a page can be ordered by. Entries that are alike in it are
// ordered by network and MAC.
var FDBOrders = []string{"network", "mac", "peer", "origin", "age"}

// FDBQuery selects a page of the forwarding entries.
type FDBQuery struct {
	Network string // "" = all
	// Contains is what the text of an entry, "network MAC peer origin" in lower
	// case, must have in it.
	Contains string
	Order    string // one of FDBOrders; "" = network and MAC
	Reverse  bool   // the whole order
	// Offset and Limit say which entries of those in order: not beyond MaxPaged.
	Offset, Limit int
}

// FDBPage is what a query selects.
type FDBPage struct {
	Total   int                  `json:"total"`   // entries of the network, or all
	Matched int                  `json:"matched"` // of them that contain what was asked for
	Entries []dataplane.FDBEntry `json:"entries"`
}

// check refuses what no table can answer.
func (q *FDBQuery) check() error {
	switch {
	case q.Order != "" && !slices.Contains(FDBOrders, q.Order):
		return fmt.Errorf("order %q: want one of %s", q.Order, strings.Join(FDBOrders, ", "))
	case q.Offset < 0 || q.Limit < 0 || q.Offset > MaxPaged || q.Limit > MaxPaged-q.Offset:
		return fmt.Errorf("entries %d to %d: want 0 to %d; for a whole table there is `overtap fdb show`", q.Offset, q.Offset+q.Limit, MaxPaged)
	}
	return nil
}

// compare orders two entries as the query says.
func (q *FDBQuery) compare(a, b *dataplane.FDBEntry) int {
	c := 0
	switch q.Order {
	case "mac":
		c = cmp.Compare(a.MAC, b.MAC)
	case "peer":
		c = a.Peer.Compare(b.Peer)
	case "origin":
		c = cmp.Compare(a.Origin, b.Origin)
	case "age":
		c = cmp.Compare(a.Age, b.Age)
	}
	if c == 0 {
		c = cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.MAC, b.MAC))
	}
	if q.Reverse {
		return -c
	}
	return c
}

// Page picks the entries that q selects of those that each calls its function
// with, in any order, for q.Network. It holds at most twice as many as lie up to
// the page's end.
func (q FDBQuery) Page(each func(network string, f func(*dataplane.FDBEntry)) error) (FDBPage, error) {
	if err := q.check(); err != nil {
		return FDBPage{}, err
	}
	page := FDBPage{Entries: []dataplane.FDBEntry{}}
	end := q.Offset + q.Limit
	contains := []byte(strings.ToLower(q.Contains))
	var text []byte
	var best []dataplane.FDBEntry
	settled := false // the first end of best are in order, and no others count
	order := func(a, b dataplane.FDBEntry) int { return q.compare(&a, &b) }
	settle := func() {
		slices.SortFunc(best, order)
		if len(best) > end {
			best, settled = best[:end], true
		}
	}
	err := each(q.Network, func(e *dataplane.FDBEntry) {
		page.Total++
		if len(contains) > 0 {
			text = append(append(text[:0], strings.ToLower(e.Network)...), ' ')
			text = append(append(text, e.MAC.String()...), ' ')
			text = append(append(e.Peer.AppendTo(text), ' '), e.Origin...)
			if !bytes.Contains(text, contains) {
				return
			}
		}
		page.Matched++
		if end == 0 || settled && q.compare(e, &best[end-1]) >= 0 {
			return
		}
		if best = append(best, *e); len(best) >= 2*end {
			settle()
		}
	})
	if err != nil {
		return FDBPage{}, err
	}
	settle()
	if q.Offset < len(best) {
		page.Entries = best[q.Offset:]
	}
	return page, nil
}

// handlePage answers queries for a page.
func handlePage(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("GET "+pathPage, func(w http.ResponseWriter, r *http.Request) {
		v := r.URL.Query()
		q := FDBQuery{Network: v.Get("network"), Contains: v.Get("contains"), Order: v.Get("order")}
		var err error
		for _, n := range []struct {
			name string
			to   *int
		}{{"offset", &q.Offset}, {"limit", &q.Limit}} {
			if s := v.Get(n.name); s != "" && err == nil {
				if *n.to, err = strconv.Atoi(s); err != nil {
					err = fmt.Errorf("%s %q: want a number", n.name, s)
				}
			}
		}
		if s := v.Get("reverse"); s != "" && err == nil {
			if q.Reverse, err = strconv.ParseBool(s); err != nil {
				err = fmt.Errorf("reverse %q: want true or false", s)
			}
		}
		if err == nil {
			err = q.check()
		}
		var page FDBPage
		if err == nil {
			page, err = d.FDBPage(q)
		}
		page.Entries = notNil(page.Entries)
		answer(w, page, err)
	})
}

// FDBPage returns the forwarding entries that q selects.
func (c *Client) FDBPage(ctx context.Context, q FDBQuery) (FDBPage, error) {
	v := url.Values{
		"network": {q.Network}, "contains": {q.Contains}, "order": {q.Order}, "reverse": {strconv.FormatBool(q.Reverse)},
		"offset": {strconv.Itoa(q.Offset)}, "limit": {strconv.Itoa(q.Limit)},
	}
	var page FDBPage
	err := c.do(ctx, http.MethodGet, pathPage+"?"+v.Encode(), nil, &page)
	return page, err
}
