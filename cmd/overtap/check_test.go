package main

import (
	"errors"
	"testing"
)

// The configuration is named by the flag or the argument, not by both, and has a place
// of its own where it is named by neither.
func TestConfigFile(t *testing.T) {
	for _, verb := range []string{"check", "run"} {
		for _, tc := range []struct {
			args []string
			want string // "" = a usage error
		}{
			{nil, "/etc/overtap/overtap.toml"},
			{[]string{"a.toml"}, "a.toml"},
			{[]string{"--config", "b.toml"}, "b.toml"},
			{[]string{"--config", "b.toml", "a.toml"}, ""},
			{[]string{"--config", ""}, ""},
			{[]string{""}, ""},
		} {
			c, _, err := newRootCommand().Find([]string{verb})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ParseFlags(tc.args); err != nil {
				t.Fatal(err)
			}
			file, err := configFile(c, c.Flag("config").Value.String(), c.Flags().Args())
			if file != tc.want || errors.As(err, new(usageError)) != (tc.want == "") {
				t.Errorf("%s %q: %q, %v; want %q", verb, tc.args, file, err, tc.want)
			}
		}
	}
}
