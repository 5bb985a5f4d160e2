package filter

import (
	"slices"
	"strings"
)

// tryLock is a word, a parenthesis or an operator; "" is the end.
type token struct {
	text   string
	column int
}

// maxDepth bounds how deep parentheses and negations may be nested.
const maxDepth = 100

type parser struct {
	text   string
	tokens []token
	at     int
	depth  int
	last   *qualifiers // of the primitive before, for an address alone
}

// scan cuts the text into tokens.
func (p *parser) scan() error {
	for i := 0; i < len(p.text); {
		switch c := p.text[i]; {
		case isSpace(c):
			i++
			continue
		case strings.IndexByte("()!", c) >= 0:
			p.add(i, i+1)
			i++
		case c == '&' || c == '|':
			if i+1 == len(p.text) || p.text[i+1] != c {
				return wrong(token{string(c), i + 1}, "&& or ||")
			}
			p.add(i, i+2)
			i += 2
		default:
			end := i + 1
			for end < len(p.text) && !isSpace(p.text[end]) && strings.IndexByte("()!&|", p.text[end]) < 0 {
				end++
			}
			p.add(i, end)
			i = end
		}
	}
	p.tokens = append(p.tokens, token{"", len(p.text) + 1})
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func (p *parser) add(from, to int) { p.tokens = append(p.tokens, token{p.text[from:to], from + 1}) }

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.text != "" {
		p.at++
	}
	return t
}

// accept takes the next tryLock when it is one of the words.
func (p *parser) accept(words ...string) bool {
	if slices.Contains(words, p.peek().text) {
		p.at++
		return true
	}
	return false
}

func (p *parser) expression() (predicate, error) {
	left, err := p.term()
	if err != nil {
		return nil, err
	}
	for {
		and := p.accept("and", "&&")
		if !and && !p.accept("or", "||") {
			return left, nil
		}
		right, err := p.term()
		if err != nil {
			return nil, err
		}
		if and {
			left = both(left, right)
		} else {
			left = either(left, right)
		}
	}
}

func both(a, b predicate) predicate   { return func(p *packet) bool { return a(p) && b(p) } }
func either(a, b predicate) predicate { return func(p *packet) bool { return a(p) || b(p) } }

func (p *parser) term() (predicate, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, wrong(p.peek(), "no more than 100 parentheses and negations in each other")
	}
	defer func() { p.depth-- }()
	switch {
	case p.accept("not", "!"):
		inner, err := p.term()
		if err != nil {
			return nil, err
		}
		return func(p *packet) bool { return !inner(p) }, nil
	case p.accept("("):
		inner, err := p.expression()
		if err != nil {
			return nil, err
		}
		if t := p.next(); t.text != ")" {
			return nil, wrong(t, "and, or, or a closing parenthesis")
		}
		return inner, nil
	}
	return p.primitive()
}
