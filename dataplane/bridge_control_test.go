package dataplane_test

import (
	"bytes"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// TestBridgeControl sends a frame to each of the sixteen addresses of bridge control
// in both directions. Where they pass, all do but those to 01:80:c2:00:00:01, and
// they are frames like others: their source is learned, a static entry leads them to
// one peer, a tag is looked at. Probes, which go to that address, are answered
// either way.
func TestBridgeControl(t *testing.T) {
	const first encap.MAC = 0x0180_c200_0000
	for _, passes := range []bool{false, true} {
		t.Run(map[bool]string{false: "drop", true: "pass"}[passes], func(t *testing.T) {
			u := netiotest.NewUnderlay(t)
			n := testNetwork(addrA, addrB, addrC)
			n.BridgeControl, n.VLANDrop = passes, true
			lacp := first + 2
			if passes {
				n.FDB = []dataplane.StaticEntry{{MAC: lacp, Peer: addrC}}
			}
			a := newHost(t, u, addrA, n)
			a.Record()
			kept := func(m encap.MAC) bool { return !passes || m == encap.ProbeMAC }
			var wantIn []netiotest.Frame
			wantOut, dropped := 0, uint64(0)
			for m := first; m <= first+0xf; m++ {
				in := plainFrame(m, macB, "bridge control")
				a.from(u, addrB, in.Data)
				a.TAP("vx0").Inject(plainFrame(m, macA, "bridge control"))
				switch {
				case kept(m):
					dropped++
				case m == lacp:
					wantOut++
					wantIn = append(wantIn, in)
				default:
					wantOut += 2
					wantIn = append(wantIn, in)
				}
			}
			wantFrames(t, a.TAP("vx0"), wantIn...)
			var sent []netiotest.Sent
			drops := []dataplane.DropStats{
				{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropBridgeControl, Count: dropped},
				{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropBridgeControl, Count: dropped},
			}
			a.wantDrops(drops...)
			eventually(t, "what is sent", func() bool { sent = append(sent, a.Sent()...); return len(sent) >= wantOut })
			for _, s := range sent {
				for _, p := range s.Payloads {
					dst := encap.MACFrom(p[encap.VXLANHeaderLen:])
					if kept(dst) || dst == lacp && s.To.Addr() != addrC {
						t.Errorf("a frame to %s went to %s", dst, s.To)
					}
				}
			}
			if len(sent) != wantOut {
				t.Errorf("%d sent, want %d", len(sent), wantOut)
			}
			entries, err := a.FDB("")
			if err != nil {
				t.Fatal(err)
			}
			learned := false
			for _, e := range entries {
				learned = learned || e.MAC == macB && e.Peer == addrB
			}
			if learned != passes {
				t.Errorf("the source of bridge control is learned: %t, want %t", learned, passes)
			}

			a.from(u, addrB, tagged(plainFrame(first+0xe, macB, "tagged"), 5).Data)
			if passes {
				drops = append(drops, dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropVLANTagged, Count: 1})
			} else {
				drops[1].Count++
			}
			a.wantDrops(drops...)

			a.from(u, addrB, request(7, 60))
			eventually(t, "an answer to a probe", func() bool {
				for _, s := range a.Sent() {
					if p, ok := encap.ParseProbe(s.Payloads[0][encap.VXLANHeaderLen:]); ok && p.Reply && p.ID == 7 {
						return true
					}
				}
				return false
			})
			silent(t, a.TAP("vx0"))

			// A reload turns it around.
			n.BridgeControl, n.FDB = !passes, nil
			a.apply(n)
			f := plainFrame(first+0xe, macB, "afterwards")
			a.from(u, addrB, f.Data)
			if passes {
				drops[1].Count++
				a.wantDrops(drops...)
			} else if got := a.TAP("vx0").Wait(1); !bytes.Equal(got[0].Data, f.Data) {
				t.Errorf("another frame came: %x", got[0].Data)
			}
		})
	}
}
