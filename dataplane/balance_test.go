package dataplane_test

import (
	"fmt"
	"testing"
	"time"

	"overtap/dataplane"
)

// unbalanced says of which network, and which way, not all that was offered was
// moved on, dropped or answered; "" of none.
func unbalanced(s dataplane.Stats) string {
	type way struct {
		network   string
		direction dataplane.Direction
	}
	drops := make(map[way]uint64)
	for _, d := range s.Drops {
		drops[way{d.Network, d.Direction}] += d.Count
	}
	for _, n := range s.Networks {
		if done := n.TxPackets + n.Suppressed + drops[way{n.Network, dataplane.Outbound}]; done != n.TxOffered {
			return fmt.Sprintf("%s outbound: %d offered, but %d sent, %d suppressed and the drops come to %d: %+v",
				n.Network, n.TxOffered, n.TxPackets, n.Suppressed, done, s.Drops)
		}
		if done := n.RxPackets + drops[way{n.Network, dataplane.Inbound}]; done != n.RxOffered {
			return fmt.Sprintf("%s inbound: %d offered, but %d delivered and the drops come to %d: %+v",
				n.Network, n.RxOffered, n.RxPackets, done, s.Drops)
		}
	}
	return ""
}

// conserves wants nothing to be lost between what an engine took and what it
// counts, once what is on its way has arrived.
func conserves(tb testing.TB, e *dataplane.Engine) {
	tb.Helper()
	problem := ""
	for range 200 {
		if problem = unbalanced(e.Stats()); problem == "" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	tb.Errorf("not conserved: %s", problem)
}
