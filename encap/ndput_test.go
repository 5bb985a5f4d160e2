package encap

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"
)

func TestMulticastOfIPv6(t *testing.T) {
	// RFC 4291 section 2.7.1 has this example.
	a := netip.MustParseAddr("4037::01:800:200e:8c6c").As16()
	group := SolicitedNode(a)
	equal(t, "SolicitedNode", netip.AddrFrom16(group), netip.MustParseAddr("ff02::1:ff0e:8c6c"))
	equal(t, "MulticastMAC6", MulticastMAC6(group), MAC(0x3333_ff0e_8c6c))
	equal(t, "AllNodes", netip.AddrFrom16(AllNodes), netip.IPv6LinkLocalAllNodes())
}

// TestPutND compares each packet with what gopacket makes of the same, and with
// what the views read back.
func TestPutND(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		address := func(name string) (a [16]byte) {
			copy(a[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, name))
			return a
		}
		src, dst, target := address("src"), address("dst"), address("target")
		target[0] = 0x20
		link := MAC(rapid.Uint64Range(0, 1<<48-1).Draw(rt, "link"))
		advert := rapid.Bool().Draw(rt, "advert")
		router, solicited, override := rapid.Bool().Draw(rt, "R"), rapid.Bool().Draw(rt, "S"), rapid.Bool().Draw(rt, "O")

		n := NDPacketLen
		if link == 0 {
			n -= ndOptionUnit
		}
		wrote := 0
		got := putInto(t, n, func(b []byte) {
			if advert {
				wrote = PutNeighborAdvert(b, src, dst, target, link, router, solicited, override)
			} else {
				wrote = PutNeighborSolicit(b, src, dst, target, link)
			}
		})
		equal(t, "length", wrote, n)

		ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: src[:], DstIP: dst[:]}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
			rt.Fatal(err)
		}
		hw := make(net.HardwareAddr, MACLen)
		link.Put(hw)
		option := func(kind layers.ICMPv6Opt) layers.ICMPv6Options {
			if link == 0 {
				return nil
			}
			return layers.ICMPv6Options{{Type: kind, Data: hw}}
		}
		var msg gopacket.SerializableLayer = &layers.ICMPv6NeighborSolicitation{
			TargetAddress: target[:], Options: option(layers.ICMPv6OptSourceAddress)}
		if advert {
			icmp.TypeCode = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)
			var flags uint8
			for i, set := range []bool{router, solicited, override} {
				if set {
					flags |= 0x80 >> i
				}
			}
			msg = &layers.ICMPv6NeighborAdvertisement{
				Flags: flags, TargetAddress: target[:], Options: option(layers.ICMPv6OptTargetAddress)}
		}
		equalBytes(t, "packet", got, build(t, ip, icmp, msg))

		p, err := ParseIPv6(got)
		if err != nil {
			rt.Fatal(err)
		}
		d, err := ParseND(p.Payload())
		if err != nil {
			rt.Fatal(err)
		}
		read, has := d.LinkAddr()
		equal(t, "IsAdvert", d.IsAdvert(), advert)
		equal(t, "Target", d.Target(), netip.AddrFrom16(target))
		equal(t, "LinkAddr", read, link)
		equal(t, "has LinkAddr", has, link != 0)
		equal(t, "Override", d.Override(), advert && override)
	})
}
