package attach

import (
	"encoding/json"
	"testing"
)

// FuzzRequest wants a request that is not refused to be one that can be made: a
// name that the kernel takes, a MAC that is not in use, addresses of hosts.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"network":"blue","target":"web","addresses":["198.51.100.2/24","2001:db8::2/64"],"gateways":["198.51.100.1","fe80::1"]}`,
		`{"target":"7","ifname":"eth7","mac":"02:42:00:00:00:07","addresses":["198.51.100.2/31"]}`,
		`{"target":"a/b","addresses":["198.51.100.0/24"],"gateways":["198.51.100.2"]}`,
		`{"target":"x","ifname":"eth%d","addresses":["::ffff:198.51.100.2/120"]}`,
	} {
		f.Add([]byte(s))
	}
	n := Network{Name: "blue", Bridge: "br0", MTU: 1450, MAC: mine}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Request
		if json.Unmarshal(text, &r) != nil || r.check(n) != nil {
			return
		}
		if r.Target == "" || len(r.IfName) > maxIfName || r.MAC == mine || r.MAC != 0 && !r.MAC.IsSource() || len(r.Addresses) == 0 {
			t.Fatalf("taken: %+v", r)
		}
		for _, p := range r.Addresses {
			if a := p.Addr(); !p.IsValid() || !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() {
				t.Errorf("the address %s is taken", p)
			}
		}
		alias := mark(n.Name, r.Target)
		if network, target, ok := marked(alias); !ok || network != n.Name || target != r.Target {
			t.Errorf("the mark %q is read as %q, %q, %t", alias, network, target, ok)
		}
	})
}
