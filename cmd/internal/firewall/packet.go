package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// packet is the first one of a TCP connection between two ports of a bridge.
type packet struct {
	bridge    string
	ipv6      bool
	netfilter bool // the IP families see it
}

// sees reports whether a chain of the family sees the packet.
func (p packet) sees(f nftables.TableFamily) bool {
	switch f {
	case nftables.TableFamilyBridge:
		return true
	case nftables.TableFamilyINet:
		return p.netfilter
	case nftables.TableFamilyIPv4:
		return p.netfilter && !p.ipv6
	case nftables.TableFamilyIPv6:
		return p.netfilter && p.ipv6
	}
	return false
}

// registers hold what a rule has loaded; of those that are absent the value is
// not known.
type registers map[uint32][]byte

// number unites the two ways to name a register: NFT_REG_1 to 4 hold four of
// NFT_REG32_00 to 15 each.
func number(register uint32) uint32 {
	if register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4 {
		return unix.NFT_REG32_00 + 4*(register-unix.NFT_REG_1)
	}
	return register
}

func (r registers) load(register uint32, value []byte) {
	if value == nil {
		delete(r, number(register))
		return
	}
	r[number(register)] = value
}

func (r registers) get(register uint32) []byte { return r[number(register)] }

func bitwise(value []byte, b *expr.Bitwise) []byte {
	if value == nil || len(b.Mask) != len(value) || len(b.Xor) != len(value) {
		return nil // not known, or another operation
	}
	out := slices.Clone(value)
	for i := range out {
		out[i] = out[i]&b.Mask[i] ^ b.Xor[i]
	}
	return out
}

// compare compares as the kernel does, by as many bytes as the rule has: fewer
// than a device's name where that ends with a wildcard.
func compare(value []byte, op expr.CmpOp, with []byte) match {
	if value == nil || len(with) > len(value) {
		return maybe
	}
	c := bytes.Compare(value[:len(with)], with)
	switch op {
	case expr.CmpOpEq:
		return is(c == 0)
	case expr.CmpOpNeq:
		return is(c != 0)
	case expr.CmpOpLt:
		return is(c < 0)
	case expr.CmpOpLte:
		return is(c <= 0)
	case expr.CmpOpGt:
		return is(c > 0)
	case expr.CmpOpGte:
		return is(c >= 0)
	}
	return maybe
}

// meta is what is known of the packet apart from its bytes, nil = nothing.
func (p packet) meta(key expr.MetaKey, family nftables.TableFamily) []byte {
	bridged := family == nftables.TableFamilyBridge // which sees the ports, not the bridge
	switch key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		if !bridged {
			return ifName(p.bridge)
		}
	case expr.MetaKeyBRIIIFNAME, expr.MetaKeyBRIOIFNAME:
		if bridged {
			return ifName(p.bridge)
		}
	case expr.MetaKeyL4PROTO:
		return []byte{unix.IPPROTO_TCP}
	case expr.MetaKeyNFPROTO:
		switch {
		case bridged:
			return []byte{unix.NFPROTO_BRIDGE}
		case p.ipv6:
			return []byte{unix.NFPROTO_IPV6}
		}
		return []byte{unix.NFPROTO_IPV4}
	case expr.MetaKeyPROTOCOL:
		return p.etherType()
	}
	return nil
}

func (p packet) etherType() []byte {
	if p.ipv6 {
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	}
	return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
}

// payload is what is known of the packet's bytes: its protocols.
func (p packet) payload(x *expr.Payload, family nftables.TableFamily) []byte {
	const protocol4, nextHeader6, etherType = 9, 6, 12
	switch {
	case x.OperationType != expr.PayloadLoad:
	case x.Base == expr.PayloadBaseNetworkHeader && x.Len == 1 && (!p.ipv6 && x.Offset == protocol4 || p.ipv6 && x.Offset == nextHeader6):
		return []byte{unix.IPPROTO_TCP}
	case x.Base == expr.PayloadBaseLLHeader && family == nftables.TableFamilyBridge && x.Offset == etherType && x.Len == 2:
		return p.etherType()
	}
	return nil
}

// ifName is a device's name as a register holds it.
func ifName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
