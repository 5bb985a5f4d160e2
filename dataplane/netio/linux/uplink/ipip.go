package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// GSO packets of IP-in-IP leave by the uplink too. There is no virtio_net_hdr for
// them as there is for UDP tunnels, so they are written as
//
//	[vnet header of the inner packet][Ethernet][outer IPv4][inner GSO packet]
//
// and a program before that of VXLAN takes the outer header off and puts it on
// again in the way that marks the tunnel for the stack (SKB_GSO_IPXIP4). The stack
// can cut such GSO packets for any device.

const (
	// ipipMark stands in the Ethernet header of what this program is for; VXLAN's
	// have zero there. Like the worker it is the program's alone.
	ipipMark = 0x1
	// What stands in the Ethernet header until the program ran (header).
	markAt, workerAt, packetAt = 10, 6, 8
	// verdictReshape: the kernel would not make the GSO packet a tunnel's.
	verdictReshape verdict = 65
	// anyDevice lets IP-in-IP leave by every device.
	anyDevice = 0
	noDevice  = 0xffffffff
)

// OpenIPIP attaches the program, before VXLAN's.
func (u *Uplink) OpenIPIP() error {
	if u.ipipIngress != nil {
		return nil
	}
	if err := u.attachIPIP(); err != nil {
		why := err.Error()
		u.IPIPRefused.Store(&why)
		return err
	}
	u.IPIPRefused.Store(nil)
	return nil
}

func (u *Uplink) attachIPIP() error {
	program, err := ipipProgram(u.verdicts, len(u.Workers))
	if err != nil {
		return fmt.Errorf("load the program of IP-in-IP: %w", err)
	}
	ingress, err := link.AttachTCX(link.TCXOptions{
		Interface: u.index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
	})
	if err != nil {
		return errors.Join(fmt.Errorf("attach the program of IP-in-IP to %s: %w", u.name, err), program.Close())
	}
	u.ipipProgram, u.ipipIngress = program, ingress
	return nil
}

// ipipProgram returns the program. It is the one of uplinkProgram, but for what
// it does between the look-up and the way out:
//
//	bpf_skb_adjust_room(skb, -20, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
//	bpf_skb_adjust_room(skb, 20, BPF_ADJ_ROOM_MAC,
//		BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
//	bpf_skb_store_bytes(skb, 14, outer, 20, 0);
func ipipProgram(verdicts *ebpf.Map, workers int) (*ebpf.Program, error) {
	const (
		fib    = -64
		ip     = fib - 24 // what follows the Ethernet header is aligned
		eth    = ip - encap.EthernetHeaderLen
		nexth  = -136
		fibLen = 64
		nhLen  = 20 // struct bpf_redir_neigh

		fibFamily, fibProto, fibTotLen, fibIfindex, fibTOS, fibSrc, fibDst = 0, 1, 6, 8, 12, 16, 32
		skbQueueMapping                                                    = 12 // struct __sk_buff
		tcxNext, tcShot                                                    = -1, 2
		roomMAC, fixedGSO, encapIPv4                                       = 1, 1, 2 // BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_…
	)
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, eth),
		asm.Mov.Imm(asm.R4, encap.EthernetHeaderLen+encap.IPv4HeaderLen),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "next"),
		asm.LoadMem(asm.R1, asm.RFP, eth+markAt, asm.Half),
		asm.JNE.Imm(asm.R1, ipipMark, "next"),
		// r7 = &verdicts[worker]
		asm.LoadMem(asm.R1, asm.RFP, eth+workerAt, asm.Half),
		asm.JGE.Imm(asm.R1, int32(workers), "drop"),
		asm.Mul.Imm(asm.R1, verdictStride),
		asm.LoadMapValue(asm.R7, verdicts.FD(), 0),
		asm.Add.Reg(asm.R7, asm.R1),
		asm.Mov.Imm(asm.R1, 0),
	}
	for i := int16(0); i < fibLen; i += 8 {
		p = append(p, asm.StoreMem(asm.RFP, fib+i, asm.R1, asm.DWord))
	}
	move := func(to, from int, size asm.Size) {
		p = append(p, asm.LoadMem(asm.R1, asm.RFP, int16(from), size), asm.StoreMem(asm.RFP, int16(to), asm.R1, size))
	}
	p = append(p,
		asm.Mov.Imm(asm.R1, unix.AF_INET), asm.StoreMem(asm.RFP, fib+fibFamily, asm.R1, asm.Byte),
		asm.Mov.Imm(asm.R1, encap.ProtoIPIP), asm.StoreMem(asm.RFP, fib+fibProto, asm.R1, asm.Byte),
		asm.LoadMapValue(asm.R2, verdicts.FD(), uint32(lookupAt(workers))),
		asm.LoadMem(asm.R8, asm.R2, 0, asm.DWord),
		asm.StoreMem(asm.RFP, fib+fibIfindex, asm.R8, asm.Word),
		asm.RSh.Imm(asm.R8, 32))
	move(fib+fibTotLen, eth+packetAt, asm.Half)
	move(fib+fibTOS, ip+1, asm.Byte)
	move(fib+fibSrc, ip+12, asm.Word)
	move(fib+fibDst, ip+16, asm.Word)
	p = append(p,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, fib),
		asm.Mov.Imm(asm.R3, fibLen),
		asm.Mov.Reg(asm.R4, asm.R8),
		asm.FnFibLookup.Call(),
		asm.JNE.Imm(asm.R0, 0, "refuse"),

		asm.LoadMem(asm.R1, asm.RFP, fib+fibIfindex, asm.Word),
		asm.StoreMem(asm.R7, 4, asm.R1, asm.Word),
		asm.LoadMapValue(asm.R2, verdicts.FD(), uint32(ipipDeviceAt(workers))),
		asm.LoadMem(asm.R3, asm.R2, 0, asm.Word),
		asm.JEq.Imm(asm.R3, anyDevice, "allowed"),
		asm.JEq.Reg(asm.R1, asm.R3, "allowed"),
		asm.Mov.Imm(asm.R0, int32(verdictOtherDevice-verdictSent)),
		asm.Ja.Label("refuse"))
	room := func(symbol string, diff, flags int32) {
		p = append(p,
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol(symbol),
			asm.Mov.Imm(asm.R2, diff),
			asm.Mov.Imm(asm.R3, roomMAC),
			asm.Mov.Imm(asm.R4, flags),
			asm.FnSkbAdjustRoom.Call(),
			asm.JNE.Imm(asm.R0, 0, "reshape"))
	}
	room("allowed", -encap.IPv4HeaderLen, fixedGSO)
	room("grow", encap.IPv4HeaderLen, fixedGSO|encapIPv4)
	p = append(p,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, encap.EthernetHeaderLen),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, ip),
		asm.Mov.Imm(asm.R4, encap.IPv4HeaderLen),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "reshape"),

		asm.Mov.Imm(asm.R1, int32(verdictSent)),
		asm.StoreMem(asm.R7, 0, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, unix.AF_INET),
		asm.StoreMem(asm.RFP, nexth, asm.R1, asm.Word))
	for i := range 4 {
		move(nexth+4+4*i, fib+fibDst+4*i, asm.Word)
	}
	p = append(p,
		// As in uplinkProgram: the device chooses its queue.
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R6, skbQueueMapping, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, fib+fibIfindex, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, nexth),
		asm.Mov.Imm(asm.R3, nhLen),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),

		asm.Mov.Imm(asm.R0, int32(verdictReshape-verdictSent)).WithSymbol("reshape"),
		asm.Add.Imm(asm.R0, int32(verdictSent)).WithSymbol("refuse"),
		asm.StoreMem(asm.R7, 0, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, tcShot).WithSymbol("drop"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("next"),
		asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "overtap_ipip", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: p,
	})
	if err != nil {
		return nil, fmt.Errorf("load the uplink's program of IP-in-IP: %w", err)
	}
	return prog, nil
}

// ipipDeviceAt is where behind the verdicts and VXLAN's devices the index of the
// only device stands that IP-in-IP may leave by.
func ipipDeviceAt(workers int) int { return workers*verdictStride + 4*maxDevices }

// lookupAt is where the lookup stands behind that, aligned.
func lookupAt(workers int) int { return ipipDeviceAt(workers) + 8 }

// putIPIP writes the headers before the GSO packet w of IP-in-IP into b, which
// has maxHeader bytes, and returns their length. It is 0 when the
// GSO packet is too long for an outer IP packet.
func (h *header) putIPIP(b []byte, w *netio.Unsegmented) int {
	const outer = encap.EthernetHeaderLen + encap.IPv4HeaderLen
	total := encap.IPv4HeaderLen + len(w.Data)
	if total > 0xffff {
		return 0
	}
	vnet, eth := b[:uplinkVnetLen], b[uplinkVnetLen:]
	clear(vnet)
	v := w.VNet
	packet := encap.IPv4HeaderLen + int(v.HdrLen) + int(v.GSOSize)
	v.HdrLen += outer
	v.CsumStart += outer
	v.Put(vnet)

	clear(eth[:encap.EthernetHeaderLen])
	binary.NativeEndian.PutUint16(eth[workerAt:], h.worker)
	binary.NativeEndian.PutUint16(eth[packetAt:], uint16(min(packet, 0xffff)))
	binary.NativeEndian.PutUint16(eth[markAt:], ipipMark)
	binary.BigEndian.PutUint16(eth[12:], encap.EtherTypeIPv4)
	ip := eth[encap.EthernetHeaderLen:][:encap.IPv4HeaderLen]
	PutOuterIPv4(ip, total, 0, true, w.TOS, w.TTL, [4]byte(h.src), w.To.Addr())
	binary.BigEndian.PutUint16(ip[10:], ^encap.Fold(encap.Sum(ip, 0)))
	return uplinkVnetLen + outer
}

// PutOuterIPv4 writes the outer header of an IP-in-IP packet of total bytes to b,
// with a checksum of zero.
func PutOuterIPv4(b []byte, total int, id uint16, df bool, tos, ttl uint8, src [4]byte, dst netip.Addr) {
	b[0], b[1] = 0x45, tos
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	binary.BigEndian.PutUint16(b[4:], id)
	b[6], b[7] = 0, 0
	if df {
		b[6] = 0x40 // DF
	}
	b[8], b[9] = ttl, encap.ProtoIPIP
	b[10], b[11] = 0, 0
	to := dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], to[:])
}

// SendIPIP passes s on unsegmented, or reports false when the socket has to.
func (w *Worker) SendIPIP(s *netio.Unsegmented) bool {
	return w.judge(s, w.head.putIPIP(w.buf[:], s))
}
