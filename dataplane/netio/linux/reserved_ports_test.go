package linux

import (
	"slices"
	"testing"
)

// listPorts is parsePorts; it lists what is in the set.
func listPorts(list string) (all []uint16, err error) {
	s, err := parsePorts(list)
	if err != nil {
		return nil, err
	}
	for i, in := range s {
		if in {
			all = append(all, uint16(firstSourcePort+i))
		}
	}
	return all, nil
}

func TestParsePorts(t *testing.T) {
	for _, c := range []struct {
		list string
		want []uint16
	}{
		{"", nil},
		{"4789,8472", nil},
		{"49152", []uint16{49152}},
		{"1-49153,65535", []uint16{49152, 49153, 65535}},
		{"50000-50001,50003", []uint16{50000, 50001, 50003}},
	} {
		got, err := listPorts(c.list)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, %v; want %v", c.list, got, err, c.want)
		}
	}
	for _, list := range []string{"x", "5-", "-5", "7-6", "65536", ","} {
		if got, err := listPorts(list); err == nil {
			t.Errorf("%q: %v, want an error", list, got)
		}
	}
}
