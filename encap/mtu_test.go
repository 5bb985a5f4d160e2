package encap

import "testing"

func TestMTU(t *testing.T) {
	vxlan := func(v6 bool) func(UnderlayMTU) (OverlayMTU, error) {
		return func(u UnderlayMTU) (OverlayMTU, error) { return u.VXLANOverlay(v6) }
	}
	for _, c := range []struct {
		name     string
		overlay  func(UnderlayMTU) (OverlayMTU, error)
		back     func(OverlayMTU) UnderlayMTU
		underlay UnderlayMTU
		want     OverlayMTU // 0 = refused
	}{
		{"vxlan over v4", vxlan(false), func(o OverlayMTU) UnderlayMTU { return o.VXLANUnderlay(false) }, 1500, 1450},
		{"vxlan over v4, jumbo", vxlan(false), nil, 9000, 8950},
		{"vxlan over v4, least", vxlan(false), nil, 118, 68},
		{"vxlan over v4, too little", vxlan(false), nil, 117, 0},
		{"vxlan over v4, nothing", vxlan(false), nil, 0, 0},
		{"vxlan over v4, most", vxlan(false), nil, 65535, 65485},
		{"vxlan over v4, more than a packet", vxlan(false), nil, 1 << 20, 65535},
		{"vxlan over v6", vxlan(true), func(o OverlayMTU) UnderlayMTU { return o.VXLANUnderlay(true) }, 1500, 1430},
		{"vxlan over v6, least", vxlan(true), nil, 138, 68},
		{"vxlan over v6, too little", vxlan(true), nil, 137, 0},
		{"ipip", UnderlayMTU.IPIPOverlay, OverlayMTU.IPIPUnderlay, 1500, 1480},
		{"ipip, least", UnderlayMTU.IPIPOverlay, nil, 88, 68},
		{"ipip, too little", UnderlayMTU.IPIPOverlay, nil, 87, 0},
		{"ipip, more than a packet", UnderlayMTU.IPIPOverlay, nil, 70000, 65535},
	} {
		got, err := c.overlay(c.underlay)
		equal(t, c.name, got, c.want)
		equal(t, c.name+": refused", err != nil, c.want == 0)
		if c.back != nil {
			equal(t, c.name+": and back", c.back(got), c.underlay)
		}
	}
	equal(t, "the largest overlay's underlay", OverlayMTU(65535).VXLANUnderlay(true), 65605)
}

func TestOverhead(t *testing.T) {
	equal(t, "VXLANOverhead4", VXLANOverhead4, 50)
	equal(t, "VXLANOverhead6", VXLANOverhead6, 70)
	equal(t, "IPIPOverhead", IPIPOverhead, 20)
}

func TestFrameLen(t *testing.T) {
	for tags, want := range []int{1464, 1468, 1472} {
		equal(t, "frame length", OverlayMTU(1450).FrameLen(tags), want)
	}
	equal(t, "longest frame", OverlayMTU(65535).FrameLen(0), 65549)
}
