package top

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// then is what a key leads to.
type then int

const (
	draw    then = iota
	quit         // the program ends
	ask          // the daemon is asked again
	askPage      // for what the view of the FDB shows
)

// longestFilter bounds what is typed, in bytes.
const longestFilter = 100

// press does what a key says. typed is the text that it makes, if any.
func (s *state) press(key, typed string) then {
	if key == "ctrl+c" {
		return quit
	}
	if s.typing {
		return s.edit(key, typed)
	}
	before, was := s.view, *s.place()
	switch key {
	case "q":
		return quit
	case "?", "h":
		s.helping = !s.helping
	case "esc":
		if s.helping {
			s.helping = false
			break
		}
		return s.search("")
	case "space", " ":
		s.paused = !s.paused
		if !s.paused {
			return ask
		}
	case "/":
		s.helping, s.typing = false, true
	case "1", "2", "3", "4":
		s.view, s.helping = View(key[0]-'1'), false
	case "tab", "right", "l":
		s.view = (s.view + 1) % views
	case "shift+tab", "left":
		s.view = (s.view + views - 1) % views
	case "s":
		s.orderBy(s.place().order + 1)
	case "S", "shift+s":
		s.orderBy(s.place().order - 1)
	case "r":
		p := s.place()
		p.reverse, p.offset = !p.reverse, 0
	default:
		s.scroll(key)
	}
	s.arrange()
	if s.view == FDB && (before != s.view || was != *s.place()) {
		return askPage
	}
	return draw
}

// orderBy orders by another column; one that is shown nowhere is no less good.
func (s *state) orderBy(column int) {
	n := s.view.orders()
	*s.place() = place{order: (column + n) % n}
}

// scroll moves the rows.
func (s *state) scroll(key string) {
	p := s.place()
	end := max(s.reach()-s.body(), 0)
	switch key {
	case "down", "j":
		p.offset++
	case "up", "k":
		p.offset--
	case "pgdown", "ctrl+f":
		p.offset += s.body()
	case "pgup", "ctrl+b":
		p.offset -= s.body()
	case "home", "g":
		p.offset = 0
	case "end", "G", "shift+g":
		p.offset = end
	}
	p.offset = max(min(p.offset, end), 0)
}

// edit types the filter.
func (s *state) edit(key, typed string) then {
	switch key {
	case "enter":
		s.typing = false
		return draw
	case "esc":
		s.typing = false
		return s.search("")
	case "ctrl+u":
		return s.search("")
	case "backspace", "ctrl+h":
		_, n := utf8.DecodeLastRuneInString(s.filter)
		return s.search(s.filter[:len(s.filter)-n])
	}
	if typed = typeable(typed); typed != "" && len(s.filter)+len(typed) <= longestFilter {
		return s.search(s.filter + typed)
	}
	return draw
}

// typeable replaces what was pasted and is no character of a name.
func typeable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// search shows what contains a text, from the first row on.
func (s *state) search(filter string) then {
	if s.filter == filter {
		return draw
	}
	s.filter = filter
	for i := range s.places {
		s.places[i].offset = 0
	}
	s.arrange()
	if s.view == FDB {
		return askPage
	}
	return draw
}

// keys is the last line.
func (s *state) keys() string {
	l := s.line()
	switch {
	case s.typing:
		l.put(normal, "/")
		l.put(bold, s.filter)
		l.put(reversed, " ")
		l.put(faint, "  enter keeps, esc clears")
		return l.String()
	case s.filter != "":
		l.put(yellow, "/"+s.filter)
		l.put(normal, "  ")
	}
	for _, k := range shortHelp {
		if l.used+len(k[0])+1+len(k[1]) > l.width {
			break
		}
		l.put(bold, k[0])
		l.put(faint, " "+k[1]+"  ")
	}
	return l.String()
}

var shortHelp = [][2]string{
	{"q", "quit"}, {"?", "help"}, {"tab", "view"}, {"s", "sort"}, {"r", "reverse"}, {"/", "filter"}, {"space", "pause"},
}

var longHelp = [][2]string{
	{"1 2 3 4, tab, left, right", "networks, peers, drops, fdb"},
	{"s, S", "order by the next column, by the one before"},
	{"r", "reverse the order"},
	{"/", "show only what contains a text"},
	{"esc", "clear the filter"},
	{"space", "pause, go on"},
	{"up, down, pgup, pgdn", "scroll; home and end"},
	{"q, ctrl+c", "quit"},
	{"", ""},
	{"tx is toward the other hosts. Bytes are", ""},
	{"those of inner frames, without the tunnel.", ""},
	{"A sparkline is as high as its own maximum.", ""},
}

// help explains the keys.
func (s *state) help() []string {
	width := 0
	for _, k := range longHelp {
		if k[1] != "" {
			width = max(width, len(k[0]))
		}
	}
	var lines []string
	for _, k := range longHelp {
		l := s.line()
		if k[1] == "" {
			l.put(normal, k[0])
		} else {
			s.put(l, bold, k[0], min(width, s.width/3), false)
			l.put(normal, "  "+k[1])
		}
		lines = append(lines, l.String())
	}
	return slices.Insert(lines, 0, "")
}
