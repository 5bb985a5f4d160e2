package printable

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"br-blue":                  "br-blue",
		"größer → 世界":              "größer → 世界",
		"a\x1b]0;x\ab":             `a\u001b]0;x\u0007b`,
		"\x1b[31m":                 `\u001b[31m`,
		"\u009b31m":                `\u009b31m`, // CSI in one character
		"\x9b31m":                  `\ufffd31m`, // the same, in one byte
		"\u202egnp.exe":            `\u202egnp.exe`,
		"\r\n\t":                   `\u000d\u000a\u0009`,
		"\U000e0041":               `\udb40\udc41`,
		"x\ufffdy":                 `x\ufffdy`,
		"bell\a and delete \u007f": `bell\u0007 and delete \u007f`,
	} {
		if got := String(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Text("a\n\tb\r"); got != "a\n\tb"+`\u000d` {
		t.Errorf("text: %q", got)
	}
}

// What is written in any pieces comes out as in one, and nothing of it acts; what
// was JSON is still the same JSON.
func TestWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		if rapid.Bool().Draw(t, "bytes") {
			text = string(rapid.SliceOf(rapid.Byte()).Draw(t, "text"))
		}
		var b strings.Builder
		w := &Writer{W: &b}
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if got, err := w.Write([]byte(rest[:n])); got != n || err != nil {
				t.Fatalf("wrote %d of %d, %v", got, n, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if utf8.ValidString(text) && b.String() != Text(text) {
			t.Errorf("%q: in pieces %q, in one %q", text, b.String(), Text(text))
		}
		for _, r := range b.String() {
			if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
				t.Errorf("%q: %q passes", text, r)
			}
		}
		if !utf8.ValidString(text) {
			return
		}
		in, err := json.Marshal(map[string]string{"name": text})
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]string
		if err := json.Unmarshal([]byte(Text(string(in))), &out); err != nil || out["name"] != text {
			t.Errorf("%q: as JSON %q, %v", text, out["name"], err)
		}
	})
}
