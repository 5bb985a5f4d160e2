package encap

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const sampleARP = "0001 0800 06 04 0001 02420a000104 c6336401 000000000000 cb007102"

func TestARP(t *testing.T) {
	a4, b4, zero := [4]byte{198, 51, 100, 1}, [4]byte{203, 0, 113, 2}, [4]byte{}
	const mac, other = MAC(0x0242_0a00_0104), MAC(0x0242_0a00_0105)
	for _, c := range []struct {
		name              string
		bytes             string
		op                uint16
		sender            MAC
		senderIP          [4]byte
		target            MAC
		targetIP          [4]byte
		probe, gratuitous bool
	}{
		{"request", sampleARP, ARPRequest, mac, a4, 0, b4, false, false},
		{"reply", "0001 0800 06 04 0002 02420a000105 cb007102 02420a000104 c6336401", ARPReply, other, b4, mac, a4, false, false},
		{"probe", "0001 0800 06 04 0001 02420a000104 00000000 000000000000 cb007102", ARPRequest, mac, zero, 0, b4, true, false},
		{"announcement", "0001 0800 06 04 0001 02420a000104 c6336401 000000000000 c6336401", ARPRequest, mac, a4, 0, a4, false, true},
		{"gratuitous reply", "0001 0800 06 04 0002 02420a000104 c6336401 ffffffffffff c6336401", ARPReply, mac, a4, BroadcastMAC, a4, false, true},
		{"unknown operation", "0001 0800 06 04 00ff 02420a000104 00000000 02420a000105 cb007102", 255, mac, zero, other, b4, false, false},
	} {
		wire := fromHex(t, c.bytes)
		equalBytes(t, c.name, putInto(t, ARPLen, func(b []byte) {
			PutARP(b, c.op, c.sender, c.senderIP, c.target, c.targetIP)
		}), wire)
		a, err := ParseARP(append(bytes.Clone(wire), make([]byte, 18)...))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		equalBytes(t, c.name+": view", a, wire)
		equal(t, c.name+": Op", a.Op(), c.op)
		equal(t, c.name+": SenderMAC", a.SenderMAC(), c.sender)
		equal(t, c.name+": SenderIP", a.SenderIP(), netip.AddrFrom4(c.senderIP))
		equal(t, c.name+": TargetMAC", a.TargetMAC(), c.target)
		equal(t, c.name+": TargetIP", a.TargetIP(), netip.AddrFrom4(c.targetIP))
		equal(t, c.name+": IsProbe", a.IsProbe(), c.probe)
		equal(t, c.name+": IsGratuitous", a.IsGratuitous(), c.gratuitous)
	}
}

func TestARPRefused(t *testing.T) {
	b := fromHex(t, sampleARP)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrShort},
		{"cut", b[:27], ErrShort},
		{"hardware type", patched(b, 0, 0, 6), ErrBadHeader},
		{"protocol type", patched(b, 2, 0x86, 0xdd), ErrBadHeader},
		{"hardware length", patched(b, 4, 8), ErrBadHeader},
		{"protocol length", patched(b, 5, 16), ErrBadHeader},
	} {
		if a, err := ParseARP(c.b); !errors.Is(err, c.want) || a != nil {
			t.Errorf("%s: %x, %v, want %v", c.name, []byte(a), err, c.want)
		}
	}
}

func FuzzARP(f *testing.F) {
	seedFrames(f, EthernetHeaderLen)
	f.Add(fromHex(f, sampleARP))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseARP(b)
		if err != nil {
			return
		}
		again := putInto(t, ARPLen, func(b []byte) {
			PutARP(b, a.Op(), a.SenderMAC(), a.SenderIP().As4(), a.TargetMAC(), a.TargetIP().As4())
		})
		equalBytes(t, "Put of Parse", again, b[:ARPLen])

		var ref layers.ARP
		if err := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			t.Fatalf("accepted what gopacket refuses: %v", err)
		}
		equal(t, "Op", a.Op(), ref.Operation)
		equalBytes(t, "SenderMAC", putInto(t, MACLen, a.SenderMAC().Put), ref.SourceHwAddress)
		equalBytes(t, "SenderIP", a.SenderIP().AsSlice(), ref.SourceProtAddress)
		equalBytes(t, "TargetMAC", putInto(t, MACLen, a.TargetMAC().Put), ref.DstHwAddress)
		equalBytes(t, "TargetIP", a.TargetIP().AsSlice(), ref.DstProtAddress)
	})
}

// The fixed parts of a solicitation and of an advertisement with R and O, and
// the options with their link-layer addresses.
const (
	solicit    = "87 00 abcd 00000000 20010db8000100000000000000000002"
	advert     = "88 00 abcd a0000000 20010db8000100000000000000000002"
	sourceLink = "01 01 02420a000104"
	targetLink = "02 01 02420a000105"
	nonce      = "0e 01 010203040506"
)

func TestND(t *testing.T) {
	for _, c := range []struct {
		name                        string
		bytes                       string
		advert                      bool
		link                        MAC
		hasLink                     bool
		router, solicited, override bool
	}{
		{"solicitation", solicit + sourceLink, false, 0x0242_0a00_0104, true, false, false, false},
		{"duplicate address detection", solicit + nonce, false, 0, false, false, false, false},
		{"solicitation without options", solicit, false, 0, false, false, false, false},
		{"address after another option", solicit + nonce + sourceLink, false, 0x0242_0a00_0104, true, false, false, false},
		{"two addresses", solicit + sourceLink + "01 01 02420a000199", false, 0x0242_0a00_0104, true, false, false, false},
		{"the wrong address", solicit + targetLink, false, 0, false, false, false, false},
		{"address of another length", solicit + "01 02 0242 0a00 0104 0242 0a00 0104 0000", false, 0, false, false, false, false},
		{"reserved bits are no flags", "87 00 abcd e0000000 20010db8000100000000000000000002", false, 0, false, false, false, false},
		{"advertisement", advert + targetLink, true, 0x0242_0a00_0105, true, true, false, true},
		{"advertisement of a host", "88 00 abcd 40000000 20010db8000100000000000000000002" + sourceLink, true, 0, false, false, true, false},
	} {
		d, err := ParseND(fromHex(t, c.bytes))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		link, has := d.LinkAddr()
		equal(t, c.name+": IsAdvert", d.IsAdvert(), c.advert)
		equal(t, c.name+": Target", d.Target(), netip.MustParseAddr("2001:db8:1::2"))
		equal(t, c.name+": LinkAddr", link, c.link)
		equal(t, c.name+": has LinkAddr", has, c.hasLink)
		equal(t, c.name+": Router", d.Router(), c.router)
		equal(t, c.name+": Solicited", d.Solicited(), c.solicited)
		equal(t, c.name+": Override", d.Override(), c.override)
	}
}

func TestNDRefused(t *testing.T) {
	b := fromHex(t, solicit+sourceLink)
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrShort},
		{"cut in the target", b[:23], ErrShort},
		{"cut in an option", b[:31], ErrShort},
		{"one byte of an option", b[:25], ErrShort},
		{"option beyond the message", patched(b, 25, 2), ErrShort},
		{"option of no length", patched(b, 25, 0), ErrBadHeader},
		{"router solicitation", patched(b, 0, ICMPv6RouterSolicit), ErrBadHeader},
		{"redirect", patched(b, 0, icmpv6Redirect), ErrBadHeader},
		{"code", patched(b, 1, 1), ErrBadHeader},
		{"multicast target", patched(b, 8, 0xff, 0x02), ErrBadHeader},
	} {
		if d, err := ParseND(c.b); !errors.Is(err, c.want) || d.msg != nil {
			t.Errorf("%s: %v, %v, want %v", c.name, d, err, c.want)
		}
	}
}

func FuzzND(f *testing.F) {
	for _, s := range []string{"", solicit, solicit + sourceLink, advert + targetLink, solicit + nonce + sourceLink, advert + "02 00"} {
		f.Add(fromHex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseND(b)
		if err != nil {
			return
		}
		var target []byte
		var flags uint8
		var options layers.ICMPv6Options
		want := layers.ICMPv6OptSourceAddress
		if d.IsAdvert() {
			var ref layers.ICMPv6NeighborAdvertisement
			err = ref.DecodeFromBytes(b[4:], gopacket.NilDecodeFeedback)
			target, options, want, flags = ref.TargetAddress, ref.Options, layers.ICMPv6OptTargetAddress, ref.Flags
		} else {
			var ref layers.ICMPv6NeighborSolicitation
			err = ref.DecodeFromBytes(b[4:], gopacket.NilDecodeFeedback)
			target, options = ref.TargetAddress, ref.Options
		}
		if err != nil {
			t.Fatalf("accepted what gopacket refuses: %v", err)
		}
		equalBytes(t, "Target", d.Target().AsSlice(), target)
		equal(t, "Router", d.Router(), flags&0x80 != 0)
		equal(t, "Solicited", d.Solicited(), flags&0x40 != 0)
		equal(t, "Override", d.Override(), flags&0x20 != 0)
		link, has := d.LinkAddr()
		for _, o := range options {
			if o.Type == want && len(o.Data) == MACLen {
				equalBytes(t, "LinkAddr", putInto(t, MACLen, link.Put), o.Data)
				equal(t, "has LinkAddr", has, true)
				return
			}
		}
		equal(t, "has LinkAddr", has, false)
	})
}
