package control

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/encap"
)

func genEntry(t *rapid.T) dataplane.FDBEntry {
	return dataplane.FDBEntry{
		Network: rapid.SampledFrom([]string{"blue", "Red", "green"}).Draw(t, "network"),
		MAC:     encap.MAC(rapid.Uint64Range(1, 40).Draw(t, "mac")),
		Peer:    netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "peer") % 4}),
		Origin:  rapid.SampledFrom([]string{"static", "learned"}).Draw(t, "origin"),
		Age:     rapid.Uint32Range(0, 5).Draw(t, "age"),
	}
}

// A page is what sorting the whole table, and cutting it, would give.
func TestPageIsOfTheWholeInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.SampledFrom([]int{0, 30}).Draw(t, "least") // else tables are short
		all := rapid.SliceOfNDistinct(rapid.Custom(genEntry), least, 60, func(e dataplane.FDBEntry) string { return e.Network + e.MAC.String() }).Draw(t, "table")
		q := FDBQuery{
			Contains: rapid.SampledFrom([]string{"", "RED", "192.0.2.1", "learned", "00:0a", "nothing"}).Draw(t, "contains"),
			Order:    rapid.SampledFrom(append(slices.Clone(FDBOrders), "")).Draw(t, "order"),
			Reverse:  rapid.Bool().Draw(t, "reverse"),
			Offset:   rapid.IntRange(0, 10).Draw(t, "offset"),
			Limit:    rapid.IntRange(0, 10).Draw(t, "limit"),
		}
		got, err := q.Page(func(_ string, f func(*dataplane.FDBEntry)) error {
			for _, e := range all {
				f(&e) // reused
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []dataplane.FDBEntry
		for _, e := range all {
			if strings.Contains(strings.ToLower(fmt.Sprint(e.Network, " ", e.MAC, " ", e.Peer, " ", e.Origin)), strings.ToLower(q.Contains)) {
				want = append(want, e)
			}
		}
		matched := len(want)
		slices.SortFunc(want, func(a, b dataplane.FDBEntry) int { return q.compare(&a, &b) })
		want = want[min(q.Offset, len(want)):min(q.Offset+q.Limit, len(want))]
		if got.Total != len(all) || got.Matched != matched || !slices.Equal(got.Entries, want) {
			t.Fatalf("got %+v\nwant %d of %d: %+v", got, matched, len(all), want)
		}
	})
}

func TestPageOrders(t *testing.T) {
	a := dataplane.FDBEntry{Network: "blue", MAC: 1, Peer: netip.MustParseAddr("192.0.2.9"), Origin: "static", Age: 3}
	b := dataplane.FDBEntry{Network: "red", MAC: 2, Peer: netip.MustParseAddr("192.0.2.10"), Origin: "learned", Age: 4}
	for order, want := range map[string]int{"": -1, "network": -1, "mac": -1, "peer": -1, "origin": 1, "age": -1} {
		if q := (FDBQuery{Order: order}); q.compare(&a, &b) != want {
			t.Errorf("%q: %d, want %d", order, q.compare(&a, &b), want)
		}
		if q := (FDBQuery{Order: order, Reverse: true}); q.compare(&a, &b) != -want {
			t.Errorf("%q reversed: %d, want %d", order, q.compare(&a, &b), -want)
		}
	}
}

func TestFDBPage(t *testing.T) {
	f := &fake{}
	for i := range 100 {
		f.entries = append(f.entries, dataplane.FDBEntry{Network: "blue", MAC: encap.MAC(100 - i), Origin: "learned"})
	}
	socket, _ := serve(t, f)
	c := NewClient(socket)
	p, err := c.FDBPage(t.Context(), FDBQuery{Contains: "00:5", Order: "mac", Reverse: true, Offset: 2, Limit: 3})
	if err != nil || p.Total != 100 || p.Matched != 16 || len(p.Entries) != 3 || p.Entries[0].MAC != 0x5d {
		t.Errorf("%+v, %v", p, err)
	}
	for _, tc := range []struct {
		q    FDBQuery
		want string
	}{
		{FDBQuery{Network: "red"}, "there is no network"},
		{FDBQuery{Order: "size"}, `order "size": want one of network, mac, peer, origin, age`},
		{FDBQuery{Offset: MaxPaged, Limit: 1}, "want 0 to 10000; for a whole table"},
		{FDBQuery{Limit: -1}, "want 0 to"},
	} {
		if _, err := c.FDBPage(t.Context(), tc.q); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v", tc.q, err)
		}
	}
	for query, want := range map[string]string{"limit=many": "want a number", "reverse=maybe": "want true or false"} {
		if code, body := raw(t, socket, http.MethodGet, pathPage+"?"+query, ""); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}
