package config

import (
	"fmt"
	"testing"
)

// The host's own stack gets the neighbours of those families in which it has an
// address or a route.
func TestHostNeighbors(t *testing.T) {
	const text = least + `
%s
  [[vxlan.neighbor]]
  address = "10.0.1.4"
  mac     = "02:42:0a:00:01:04"
  [[vxlan.neighbor]]
  address = "2001:db8:1::4"
  mac     = "02:42:0a:00:01:04"
`
	for more, want := range map[string]string{
		"":                                  "",
		`bridge = "br-blue"`:                "",
		`addresses = ["198.51.100.1/24"]`:   "10.0.1.4 ",
		`addresses = ["2001:db8:1::1/128"]`: "2001:db8:1::4 ",
		"addresses = [\"198.51.100.1/32\"]\n[[vxlan.route]]\nprefix = \"2001:db8:9::/64\"\nvia = \"2001:db8:1::4\"": "10.0.1.4 2001:db8:1::4 ",
	} {
		v := mustParse(t, fmt.Sprintf(text, more)).VXLAN[0]
		got := ""
		for _, n := range v.hostNeighbors() {
			got += n.Address.String() + " "
		}
		if got != want {
			t.Errorf("%q: %q, want %q", more, got, want)
		}
	}
}
