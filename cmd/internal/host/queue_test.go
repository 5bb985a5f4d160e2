package host

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func TestRingLength(t *testing.T) {
	for queues, want := range map[int]int{0: 8192, 1: 8192, 2: 8192, 8: 8192, 9: 4096, 12: 4096, 16: 4096, 24: 2048, 64: 1024, 256: 1024} {
		if got := ringLength(queues); got != want {
			t.Errorf("of %d queues: %d, want %d", queues, got, want)
		}
	}
}

// kinds lists the disciplines on a link.
func kinds(t *testing.T, l netlink.Link) (all []string) {
	t.Helper()
	list, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range list {
		all = append(all, q.Type())
	}
	return all
}

// A TAP has noqueue from before it comes up, so that the kernel never makes its
// default disciplines; one that a daemon before left with those loses them; one
// that an administrator set stays.
func TestNoQueue(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(t *testing.T, tap netlink.Link)
		want   string
	}{
		"a new TAP": {func(*testing.T, netlink.Link) {}, "noqueue"},
		"one that is up with the default disciplines": {func(t *testing.T, tap netlink.Link) {
			if err := netlink.LinkSetUp(tap); err != nil {
				t.Fatal(err)
			}
			if got := kinds(t, tap); len(got) == 0 || got[0] != "mq" {
				t.Fatalf("a TAP that comes up has %v, want mq: this test shows nothing", got)
			}
		}, "noqueue"},
		"one with a discipline set by hand": {func(t *testing.T, tap netlink.Link) {
			if err := netlink.QdiscReplace(&netlink.GenericQdisc{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: tap.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
				QdiscType:  "pfifo",
			}); err != nil {
				t.Fatal(err)
			}
		}, "pfifo"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			newTAP(t, "vx-blue")
			tap := link(t, "vx-blue")
			tc.before(t, tap)
			for range 2 { // the second pass changes nothing
				if err := h.Setup(blue()); err != nil {
					t.Fatal(err)
				}
				if got := kinds(t, tap); len(got) != 1 || got[0] != tc.want {
					t.Errorf("the disciplines are %v, want %s alone", got, tc.want)
				}
			}
			if a := link(t, "vx-blue").Attrs(); a.TxQLen != maxRing {
				t.Errorf("the rings have %d places, want %d", a.TxQLen, maxRing)
			}
		})
	}
}
