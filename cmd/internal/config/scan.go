package config

import (
	"strings"

	"github.com/BurntSushi/toml"
)

// scanner finds the places of keys and values in a text that the TOML parser has
// already accepted. It therefore checks nothing; on a text that is not TOML it
// yields some tree, but it always ends.
type scanner struct {
	src     string
	pos     int // next byte
	line    int // of counted
	counted int // up to here newlines are counted

	again    []*node
	headings []heading
}

// heading is a table's header.
type heading struct {
	keys []string
	line int
	text string
}

// scan returns the tree of the text's keys, with lines and the values as
// written, but not yet their meaning: node.fill enters that.
//
// Again are values of keys that are in the tree already, made by a dotted key:
// "a.b = 1", then "a = 2". TOML forbids it, but the parser keeps the first and
// does not report the second.
func scan(text string) (root *node, again []*node) {
	s := newScanner(text)
	return s.file(), s.again
}

func newScanner(text string) *scanner {
	return &scanner{src: strings.TrimPrefix(text, "\ufeff"), line: 1}
}

// file reads the rest of the text.
func (s *scanner) file() *node {
	root := &node{kind: tableKind, index: -1, line: 1}
	current := root
	for s.blank(); !s.end(); s.blank() {
		before := s.pos
		if s.src[s.pos] == '[' {
			current = s.header(root)
		} else {
			s.pair(current)
		}
		s.advanceFrom(before)
	}
	return root
}

// header reads [a.b] or [[a.b]] and returns the table that follows.
func (s *scanner) header(root *node) *node {
	start, line := s.pos, s.lineHere()
	array := strings.HasPrefix(s.src[s.pos:], "[[")
	s.pos++
	if array {
		s.pos++
	}
	keys := s.keys()
	s.skip(']')
	if array {
		s.skip(']')
	}
	text := s.src[start:s.pos]
	s.headings = append(s.headings, heading{keys, line, text})

	n := descend(root, keys[:len(keys)-1], line).child(keys[len(keys)-1], line)
	if !array {
		n.line, n.text = line, text
		return n
	}
	if n.kind != arrayKind {
		n.kind, n.text = arrayKind, text
	}
	t := &node{kind: tableKind, line: line, text: text}
	n.push(t)
	return t
}

// descend follows keys from table n; of an array of tables it takes the last,
// as TOML does.
func descend(n *node, keys []string, line int) *node {
	for _, key := range keys {
		n = n.child(key, line)
		if n.kind == arrayKind && len(n.items) > 0 {
			n = n.items[len(n.items)-1]
		}
	}
	return n
}

// pair reads key = value into table t. The value's line is its key's.
func (s *scanner) pair(t *node) {
	line := s.lineHere()
	keys := s.keys()
	s.skip('=')
	s.space()
	v := s.value()
	v.line = line
	owner, key := descend(t, keys[:len(keys)-1], line), keys[len(keys)-1]
	if _, ok := owner.table[key]; ok {
		v.parent, v.key = owner, key
		s.again = append(s.again, v)
		return
	}
	owner.put(key, v)
}

// keys reads a dotted key: at least one part.
func (s *scanner) keys() []string {
	var keys []string
	for {
		s.space()
		keys = append(keys, s.key())
		s.space()
		if !s.skip('.') {
			return keys
		}
	}
}

// key reads one part of a dotted key.
func (s *scanner) key() string {
	start := s.pos
	if s.end() || s.src[s.pos] != '"' && s.src[s.pos] != '\'' {
		s.until(" \t\r\n.=]")
		return s.src[start:s.pos]
	}
	s.quoted()
	text := s.src[start:s.pos]
	if text[0] == '"' && strings.Contains(text, `\`) {
		// Leave the escapes to the parser, so that both agree on the key.
		var v struct{ Key string }
		if _, err := toml.Decode("Key = "+text, &v); err == nil {
			return v.Key
		}
	}
	return strings.Trim(text, text[:1])
}

// value reads any value.
func (s *scanner) value() *node {
	start := s.pos
	n := &node{index: -1, line: s.lineHere()}
	if s.end() {
		return n
	}
	switch s.src[s.pos] {
	case '"', '\'':
		s.quoted()
	case '[':
		n.kind = arrayKind
		s.elements(']', func() {
			n.push(s.value())
		})
	case '{':
		n.kind = tableKind
		s.elements('}', func() {
			s.pair(n)
		})
	default:
		s.until(",]}#\n")
	}
	n.text = strings.TrimRight(s.src[start:s.pos], " \t\r")
	return n
}

// elements reads what is between brackets, separated by commas: each
// element by read.
func (s *scanner) elements(closing byte, read func()) {
	s.pos++
	for s.blank(); !s.end() && !s.skip(closing); s.blank() {
		before := s.pos
		read()
		s.blank()
		s.skip(',')
		s.advanceFrom(before)
	}
}

// quoted reads a string of any of the four forms.
func (s *scanner) quoted() {
	quote := s.src[s.pos : s.pos+1]
	escapes := quote == `"`
	if !strings.HasPrefix(s.src[s.pos:], quote+quote+quote) {
		for s.pos++; !s.end(); s.pos++ {
			switch c := s.src[s.pos]; {
			case c == quote[0]:
				s.pos++
				return
			case c == '\\' && escapes:
				s.pos++
			}
		}
		s.pos = len(s.src)
		return
	}
	for s.pos += 3; !s.end(); {
		rest := s.src[s.pos:]
		run := 0
		for run < len(rest) && rest[run] == quote[0] {
			run++
		}
		switch {
		case run >= 3: // up to two quotes may stand before the closing three
			s.pos += run
			return
		case rest[0] == '\\' && escapes:
			s.pos += 2
		default:
			s.pos += max(1, run)
		}
	}
	s.pos = len(s.src)
}

// blank skips white space, newlines and comments.
func (s *scanner) blank() {
	for !s.end() {
		switch s.src[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		case '#':
			s.until("\n")
		default:
			return
		}
	}
}

// space skips white space within a line.
func (s *scanner) space() {
	for !s.end() && (s.src[s.pos] == ' ' || s.src[s.pos] == '\t') {
		s.pos++
	}
}

// until stops at the first byte that is one of stops.
func (s *scanner) until(stops string) {
	if i := strings.IndexAny(s.src[s.pos:], stops); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.src)
	}
}

// skip passes one byte when it is c, and reports whether it was.
func (s *scanner) skip(c byte) bool {
	if s.end() || s.src[s.pos] != c {
		return false
	}
	s.pos++
	return true
}

// advanceFrom makes sure that the scanner has left a place, so that it ends on
// any input.
func (s *scanner) advanceFrom(before int) {
	if s.pos == before {
		s.pos++
	}
}

func (s *scanner) end() bool { return s.pos >= len(s.src) }

// lineHere returns the line of the next byte, from 1.
func (s *scanner) lineHere() int {
	s.line += strings.Count(s.src[s.counted:s.pos], "\n")
	s.counted = s.pos
	return s.line
}
