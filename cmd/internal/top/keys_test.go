package top

import (
	"slices"
	"strings"
	"testing"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

func TestOrder(t *testing.T) {
	s := after(t, 20, 80, 24)
	want := func(what string, names ...string) {
		t.Helper()
		if got := s.first(0); !slices.Equal(got, names) {
			t.Errorf("%s: %v, want %v", what, got, names)
		}
	}
	want("by the last minute", "blue", "red", "green")
	s.type_(t, "s")
	want("by name", "blue", "green", "red")
	s.type_(t, "r")
	want("by name, reversed", "red", "green", "blue")
	s.type_(t, "s")
	want("by tx", "blue", "red", "green")
	s.type_(t, "r")
	want("by tx, the least first", "green", "red", "blue")
	s.type_(t, "S", "S")
	want("by the last minute again", "blue", "red", "green")
	for range len(headers[Networks]) {
		s.type_(t, "s")
	}
	want("all round", "blue", "red", "green")
	// By the bound and not by the text: 90 % is before 0 %, and that before none.
	for s.shown.columns[s.place().order].title != "FDB" {
		s.type_(t, "s")
	}
	want("by entries", "red", "blue", "green")
	// Each view keeps its own.
	s.type_(t, "2", "s", "1")
	want("as it was left", "red", "blue", "green")
}

func TestFilter(t *testing.T) {
	s := after(t, 20, 80, 24)
	s.type_(t, "/", "R", "E")
	if got := s.first(0); !slices.Equal(got, []string{"red", "green"}) {
		t.Errorf("%v", got)
	}
	if !s.typing || s.type_(t, "q") == quit || s.filter != "REq" {
		t.Errorf("q ends it while the filter is typed: %q", s.filter)
	}
	if got := s.screen(); !strings.Contains(got, `nothing contains "REq": esc clears the filter`) {
		t.Error(got)
	}
	s.type_(t, "backspace", "enter")
	if s.typing || s.filter != "RE" || !strings.Contains(s.screen(), "/RE  q quit") {
		t.Errorf("%q\n%s", s.filter, s.screen())
	}
	s.type_(t, "2")
	if got := s.first(1); !slices.Equal(got, []string{"192.0.2.3"}) {
		t.Errorf("of the peers: %v", got)
	}
	if s.type_(t, "4") != askPage || s.query("blue").Contains != "RE" {
		t.Error("the daemon is not asked for what the filter lets pass")
	}
	if s.type_(t, "esc") != askPage || s.filter != "" {
		t.Error("esc does not clear the filter")
	}
	s.type_(t, "/", "a", "ctrl+u")
	if s.filter != "" || !s.typing {
		t.Errorf("ctrl+u: %q", s.filter)
	}
	s.press("paste", strings.Repeat("x", longestFilter+1))
	s.press("paste", "a\tb\n")
	if s.filter != "a?b?" {
		t.Errorf("pasted: %q", s.filter)
	}
}

func TestScroll(t *testing.T) {
	s := after(t, 2, 80, 12) // 6 rows
	s.type_(t, "4")
	for _, tc := range []struct {
		key   string
		first string
	}{
		{"down", "02:42:0a:00:00:01"}, {"up", "02:42:0a:00:00:00"}, {"up", "02:42:0a:00:00:00"},
		{"pgdown", "02:42:0a:00:00:06"}, {"end", "02:42:0a:00:00:72"}, {"down", "02:42:0a:00:00:72"}, {"pgup", "02:42:0a:00:00:6c"}, {"home", "02:42:0a:00:00:00"},
	} {
		s.type_(t, tc.key)
		if got := s.visible(); len(got) != 6 || got[0].cells[1].text != tc.first {
			t.Fatalf("%s: %d rows from %s, want 6 from %s", tc.key, len(got), got[0].cells[1].text, tc.first)
		}
	}
	// A larger screen at the end shows what was above.
	s.type_(t, "end")
	s.height = 30
	s.arrange()
	s.turn(t)
	if got := s.visible(); len(got) != 24 || got[23].cells[1].text != "02:42:0a:00:00:77" {
		t.Errorf("%d rows to %s", len(got), got[len(got)-1].cells[1].text)
	}
	// No farther than the daemon pages.
	s.page.Matched = 1_000_000
	s.arrange()
	s.press("end", "")
	if q := s.query(""); q.Offset+q.Limit != control.MaxPaged {
		t.Errorf("%+v", q)
	}
}

// Every order of the view of the FDB is one that the daemon knows, and the first
// press of its column begins with what the column says.
func TestFDBOrders(t *testing.T) {
	s := after(t, 2, 80, 12)
	s.type_(t, "4")
	for range len(fdbOrders) {
		if _, err := s.query("").Page(func(string, func(*dataplane.FDBEntry)) error { return nil }); err != nil {
			t.Error(err)
		}
		s.type_(t, "s")
	}
	for s.query("").Order != "age" {
		s.type_(t, "s")
	}
	if got := s.visible()[0].cells[4].text; got != "1m59s" {
		t.Errorf("by age the first is %s old", got)
	}
	if s.type_(t, "r"); s.visible()[0].cells[3].text != "static" {
		t.Errorf("reversed the first is %s", s.visible()[0].cells[3].text)
	}
}

func TestQuitAndPause(t *testing.T) {
	s := after(t, 2, 80, 24)
	if s.type_(t, "space") != draw || !s.paused || s.type_(t, "space") != ask || s.paused {
		t.Error("space does not pause and go on")
	}
	if s.type_(t, "q") != quit || s.type_(t, "/", "ctrl+c") != quit {
		t.Error("it does not quit")
	}
}
