package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"overtap/bench/netlab/netlabtest"
	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/netnstest"
)

// space opens the namespace of a container.
func space(t *testing.T, name string) *os.File {
	t.Helper()
	netnstest.Require(t)
	h, err := netlabtest.New(t).AddHost(name)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(filepath.Join("/run/netns", h.Namespace()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// A container stays attached over the daemon's end, on a bridge that goes with
// the first and comes with the next.
func TestAttachmentOutlivesDaemon(t *testing.T) {
	underlay(t)
	defer goleak.VerifyNone(t)
	ns := space(t, "c1")
	request := attach.Request{Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}}

	before := links(t)
	r, o := prepare(t, twoNetworks)
	start(t, r, o)
	if _, err := r.client.AddFDB(t.Context(), entry("red", 0x020000000001, "203.0.113.9")); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]attach.Request{
		`there is no network "green": name one of blue, red`: {Network: "green", Target: "c1", Addresses: request.Addresses},
		"network red has no bridge for containers to be attached to: give it one by the key bridge in test.toml": {
			Network: "red", Target: "c1", Addresses: request.Addresses},
		"the address 198.51.100.1 is taken, by": {
			Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
		"192.0.2.9/24 is in the subnet 192.0.2.0/24, which holds our own underlay address 192.0.2.1": {
			Network: "blue", Target: "c1", Addresses: []netip.Prefix{request.Addresses[0], netip.MustParsePrefix("192.0.2.9/24")}},
		"192.0.2.3/31 is in the subnet 192.0.2.2/31, which holds the peer 192.0.2.2": {
			Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.3/31")}},
		"203.0.113.1/24 is in the subnet 203.0.113.0/24, which holds the peer 203.0.113.9": { // of the command line
			Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}},
		"is that of the network's own device": {
			Network: "blue", Target: "c1", Addresses: request.Addresses, MAC: o.Config.VXLAN[0].MAC},
	} {
		if _, err := r.client.Attach(t.Context(), ns, change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	made, err := r.client.Attach(t.Context(), ns, request)
	if err != nil {
		t.Fatal(err)
	}
	if made.MTU != 1450 || made.Bridge != "br-blue" {
		t.Errorf("made: %+v", made)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if after := links(t); after != before+" "+made.Veth {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}

	r, o = prepare(t, twoNetworks)
	start(t, r, o)
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Attachments) != 1 || s.Attachments[0].Bridge != "br-blue" || s.Attachments[0].Veth != made.Veth ||
		s.Attachments[0].IfName != "eth0" || !strings.Contains(r.log.String(), "attached again") {
		t.Errorf("status: %+v", s.Attachments)
	}
	if _, err := r.client.Detach(t.Context(), ns, attach.Selector{Network: "green", Target: "c1"}); err == nil ||
		!strings.Contains(err.Error(), `there is no network "green"`) {
		t.Error(err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}

	// The network is configured no more; what is left of it can be detached.
	r, o = prepare(t, strings.ReplaceAll(twoNetworks, `"blue"`, `"green"`))
	start(t, r, o)
	if s, err := r.client.Status(t.Context()); err != nil || len(s.Attachments) != 1 || s.Attachments[0].Bridge != "" {
		t.Errorf("status: %+v, %v", s.Attachments, err)
	}
	if _, err := r.client.Detach(t.Context(), nil, attach.Selector{Network: "blue", Target: "c1"}); err != nil {
		t.Error(err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
}
