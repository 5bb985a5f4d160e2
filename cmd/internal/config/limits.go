package config

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The limits of a configuration. The parser of TOML has no limits of its
// own: its stack grows with every bracket and its time with the square of a
// key's parts.
const (
	maxText  = 32 << 20 // bytes; 100,000 [[vxlan.fdb]] take about a third
	maxDepth = 16       // of arrays and inline tables in each other, and parts of a dotted key
)

// readFile reads a regular file up to what is too much for Parse. It does not
// wait for the other end of a FIFO.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		want := "want a regular file"
		if info.IsDir() {
			if c := candidate(path); c != "" {
				want += ", such as " + c
			}
		}
		return nil, Errors{{File: path, Line: 1, Problem: "is " + kindOf(info.Mode()) + "; " + want}}
	}
	return io.ReadAll(io.LimitReader(f, maxText+1))
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "not a file"
}

// tooMuch is the first place where the text goes beyond the limits, nil when
// there is none. It reads strings and comments as the parser does, so that what
// stands in them does not count.
func tooMuch(name, text string) Errors {
	if len(text) > maxText {
		return Errors{{File: name, Line: 1, Problem: fmt.Sprintf("is longer than %d MiB; want less", maxText>>20)}}
	}
	s := &scanner{src: text, line: 1}
	depth, parts := 0, 1
	for !s.end() {
		switch s.src[s.pos] {
		case '"', '\'':
			s.quoted()
			continue
		case '#':
			s.until("\r\n")
			continue
		case '[', '{':
			depth, parts = depth+1, 1
		case ']', '}':
			depth, parts = max(0, depth-1), 1
		case '=', ',', '\r', '\n':
			parts = 1
		case '.':
			parts++
		}
		if depth > maxDepth || parts > maxDepth {
			e := Error{File: name, Line: s.lineHere(), Value: shown(strings.TrimSpace(lineAt(text, s.pos)))}
			if e.Problem = fmt.Sprintf("has a key of more than %d parts; want fewer", maxDepth); depth > maxDepth {
				e.Problem = fmt.Sprintf("nests arrays or tables deeper than %d; want fewer levels", maxDepth)
			}
			return Errors{e}
		}
		s.pos++
	}
	return nil
}

// lineAt is the line of text that the byte at pos stands in, up to what an error
// shows of it.
func lineAt(text string, pos int) string {
	rest := text[strings.LastIndexByte(text[:pos], '\n')+1:]
	line, _, _ := strings.Cut(rest[:min(len(rest), 4*maxShown)], "\n")
	return line
}
