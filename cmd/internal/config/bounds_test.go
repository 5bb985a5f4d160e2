package config

import (
	"fmt"
	"strings"
	"testing"
)

// TestBounds checks the last value on each side of every limit.
func TestBounds(t *testing.T) {
	const (
		v4  = "[underlay]\naddress = \"192.0.2.1\"\n"
		v6  = "[underlay]\naddress = \"2001:db8::1\"\n"
		net = "[[vxlan]]\nname = \"blue\"\n"
		one = net + "vni = 1\n"
	)
	for _, test := range []struct {
		format    string
		good, bad []any
	}{
		{v4 + "[engine]\nworkers = %v\n", []any{0, 256}, []any{-1, 257}},
		{v4 + "[engine]\nsource_ports = %v\n", []any{1, 256}, []any{0, 257}},
		{v4 + net + "vni = %v\n", []any{0, 1<<24 - 1}, []any{-1, 1 << 24, -1 << 63, 1<<32 + 1}},
		{v4 + one + "port = %v\n", []any{1, 65535}, []any{0, 65536, 1<<16 + 4789}},
		{v4 + one + "mtu = %v\n", []any{0, 68, 65485}, []any{-1, 1, 67, 65486, 1<<16 + 1450}},
		{v6 + one + "mtu = %v\n", []any{68, 65465}, []any{67, 65466}},
		{v4 + one + "addresses = [\"2001:db8:1::1/64\"]\nmtu = %v\n", []any{0, 1280}, []any{1279}},
		{v4 + one + "max_entries = %v\n", []any{1, 1 << 24}, []any{0, 1<<24 + 1}},
		{v4 + one + "ttl = %v\n", []any{1, 255}, []any{0, 256, 256 + 64}},
		{v4 + one + "tos = %v\n", []any{0, 255}, []any{-1, 256}},
		{v4 + one + "ageing = %q\n", []any{"0s", "1s", "8760h"}, []any{"-1s", "999ms", "8760h1s"}},
		{v4 + one + "tap = %q\n", []any{"x", strings.Repeat("x", 15)}, []any{"", strings.Repeat("x", 16)}},
		{v4 + "[[vxlan]]\ntap = \"t\"\nvni = 1\nname = %q\n", []any{"x", strings.Repeat("x", 64)}, []any{"", strings.Repeat("x", 65)}},
		{v4 + "[control]\nsocket = %q\n", []any{"/s", "/" + strings.Repeat("x", 106)}, []any{"/", "/" + strings.Repeat("x", 107)}},
		{v4 + "[control]\nmetrics = %q\n", []any{":1", ":65535"}, []any{":0", ":65536", ":http"}},
	} {
		for _, v := range test.good {
			if _, err := Parse("test.toml", fmt.Appendf(nil, test.format, v)); err != nil {
				t.Error(err)
			}
		}
		for _, v := range test.bad {
			if _, err := Parse("test.toml", fmt.Appendf(nil, test.format, v)); err == nil {
				t.Errorf("accepted:\n"+test.format, v)
			}
		}
	}
}
