package lab

import (
	"strings"
	"unicode/utf8"
)

// drawing is what the picture of a lab shows: a host, or two side by side, and
// in each the path of a packet from the containers down to the underlay.
type drawing struct {
	hosts    []hostView
	underlay string // between two
}

type hostView struct {
	name       string
	containers []deviceView
	bridge     deviceView
	tunnel     []deviceView // from the bridge to the underlay's device
	underlay   deviceView
}

// deviceView is a device, or a program on the path, with what is known of it.
type deviceView struct {
	name  string
	owner string // the container it is in; its port on the bridge has that name
	lines []string
}

// Columns of the picture: two boxes and the gap between them make 78.
const (
	boxWidth  = 38
	boxGap    = 2
	nestAt    = 8 // where a container's box begins in that of its host
	nestWidth = boxWidth - nestAt - 2
	labelCols = 9 // of a name and the gap after it
)

// lines returns the picture in box-drawing characters.
func (d drawing) lines() []string {
	if len(d.hosts) == 1 {
		box := d.hosts[0].box()
		return append(box[:len(box)-1], frame("└", "", "┘", boxWidth)) // nothing leaves it
	}
	left, right := d.hosts[0].box(), d.hosts[1].box()
	// The taller box is closed where it is; the other is drawn out to it.
	for len(left) < len(right) {
		left = grow(left)
	}
	for len(right) < len(left) {
		right = grow(right)
	}
	gap := strings.Repeat(" ", boxGap)
	out := make([]string, 0, len(left)+1)
	for i := range left {
		out = append(out, left[i]+gap+right[i])
	}
	// From the spine of the one box to that of the other.
	title := " " + d.underlay + " "
	fill := boxWidth + boxGap - 1 - utf8.RuneCountInString(title)
	return append(out, "  └"+strings.Repeat("─", fill/2)+title+strings.Repeat("─", fill-fill/2)+"┘")
}

// grow lengthens a box by a line above its bottom.
func grow(box []string) []string {
	bottom := len(box) - 1
	return append(box[:bottom:bottom], row("│"), box[bottom])
}

// box draws a host. A line, the spine, joins all in the order of the path.
func (h hostView) box() []string {
	out := []string{frame("┌", "host "+h.name, "┐", boxWidth)}
	for i, c := range h.containers {
		spine, branch := "│", "├"
		if i == 0 {
			spine, branch = " ", "┌"
		}
		out = append(out, row(pad(spine, nestAt-2)+frame("┌", "container "+c.owner, "┐", nestWidth)))
		for j, line := range append([]string{c.name + "  " + first(c.lines)}, indent(len(c.name)+2, rest(c.lines))...) {
			left := pad("│", nestAt-2) + "│"
			if j == 0 {
				left = pad(branch+"─ "+c.owner, nestAt-3) + " ┤"
			}
			out = append(out, row(left+pad(" "+line, nestWidth-2)+"│"))
		}
		out = append(out, row(pad("│", nestAt-2)+frame("└", "", "┘", nestWidth)))
	}
	for _, d := range append(append([]deviceView{h.bridge}, h.tunnel...), h.underlay) {
		out = append(out, row(pad(d.name, labelCols)+first(d.lines)))
		for _, line := range rest(d.lines) {
			out = append(out, row(pad("│", labelCols)+line))
		}
		if d.name == h.bridge.name {
			out = append(out, row("│"))
		}
	}
	return append(out, "└─┼"+strings.Repeat("─", boxWidth-4)+"┘")
}

// frame draws the upper or lower edge of a box.
func frame(left, title, right string, width int) string {
	if title != "" {
		title = "─ " + title + " "
	}
	return left + title + strings.Repeat("─", width-2-utf8.RuneCountInString(title)) + right
}

// row puts a line into a host's box.
func row(line string) string { return "│ " + pad(line, boxWidth-4) + " │" }

// pad fills s with blanks, and cuts it off where it is too long.
func pad(s string, width int) string {
	if n := utf8.RuneCountInString(s); n < width {
		return s + strings.Repeat(" ", width-n)
	}
	return string([]rune(s)[:width])
}

func indent(n int, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = strings.Repeat(" ", n) + l
	}
	return out
}

func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}

func rest(lines []string) []string { return lines[min(1, len(lines)):] }
