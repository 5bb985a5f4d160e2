package lab

import (
	"slices"
	"strings"
	"testing"
)

func TestUTF8Locale(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "de_DE.utf8"}, true},
		{map[string]string{"LANG": "de_DE"}, false},
		{map[string]string{"LANG": "C.UTF-8", "LC_CTYPE": "C"}, false},
		{map[string]string{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
		{map[string]string{"LC_ALL": "POSIX", "LANG": "C.UTF-8", "LC_CTYPE": "C.UTF-8"}, false},
	} {
		if got := utf8Locale(func(name string) string { return tc.env[name] }); got != tc.want {
			t.Errorf("%v: %v", tc.env, got)
		}
	}
}

func TestGoRunWords(t *testing.T) {
	for _, tc := range []struct{ parent, args, want string }{
		{"go run ./cmd/overtap lab up", "lab up", "go run ./cmd/overtap"},
		{"/usr/local/go/bin/go run -race ./cmd/overtap lab up", "lab up", "/usr/local/go/bin/go run -race ./cmd/overtap"},
		{"go run .", "", "go run ."},
		{"go test ./cmd/overtap lab up", "lab up", ""},
		{"-bash", "lab up", ""},
		{"sh run ./cmd/overtap lab up", "lab up", ""},
		{"", "", ""},
	} {
		got := goRun(strings.Split(tc.parent, " "), strings.Fields(tc.args))
		if !slices.Equal(got, strings.Fields(tc.want)) {
			t.Errorf("%q: %q", tc.parent, got)
		}
	}
}

func TestShellWords(t *testing.T) {
	got := shellWords([]string{"go", "run", "./my cmd", "", "it's", "$HOME", "a-b_c.d/e"})
	if want := `go run './my cmd' '' 'it'\''s' '$HOME' a-b_c.d/e`; got != want {
		t.Error(got)
	}
}
