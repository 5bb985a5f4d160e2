package uplink

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// verdict is what the uplink's program says of a GSO packet. write returns only
// after the program ran (tun_get_user receives inline), so the answer is there
// when it returns. Zero stands when the program did not run.
type verdict uint32

const (
	verdictNone verdict = 0
	// Each of BPF_FIB_LKUP_RET_* of linux/bpf.h plus verdictSent, which stands
	// for BPF_FIB_LKUP_RET_SUCCESS. Those without a name here are kinds of
	// having no route.
	verdictSent        verdict = 1
	verdictForwardOff          = verdictSent + 5
	verdictNoNeighbour         = verdictSent + 7
	verdictTooBig              = verdictSent + 8
	verdictOtherDevice verdict = 64
)

// verdictStride keeps the workers' verdicts in lines of their own.
const verdictStride = 64

// uplinkProgram returns the program at the uplink's ingress. It asks the
// kernel's forwarding table where a GSO packet's packets go, as its socket
// would, writes the answer to verdicts[worker], and hands the GSO packet to
// that device and next hop; what has no way it drops, and the writer, which gets to know,
// sends it by the socket.
//
//	struct bpf_fib_lookup f = {
//		.family, .l4_protocol = UDP, .sport, .dport, .tot_len = packet,
//		.ifindex = lookup.ifindex, .tos, .src, .dst};
//	ret = bpf_fib_lookup(skb, &f, sizeof(f), lookup.flags);   // route, path MTU, neighbour
//	if (!ret && !allowed(f.ifindex)) ret = other device;
//	verdicts[worker] = {1 + ret, f.ifindex};
//	if (ret) return TC_ACT_SHOT;
//	skb->queue_mapping = 0;
//	return bpf_redirect_neigh(f.ifindex, &{f.family, f.dst}, sizeof, 0);
//
// Behind the workers' verdicts stand the indexes of the devices it may leave
// by; that of another one stands behind the verdict. Behind these stands the lookup.
func uplinkProgram(verdicts *ebpf.Map, workers int, v6 bool) (*ebpf.Program, error) {
	const (
		// The stack: the lookup's parameters, the packet's headers, so that
		// what follows the Ethernet header is aligned, and the next hop.
		fib    = -64
		ip     = fib - 48
		eth    = ip - encap.EthernetHeaderLen
		nexth  = -160
		fibLen = 64
		nhLen  = 20 // struct bpf_redir_neigh

		fibFamily, fibProto, fibSport, fibDport, fibTotLen, fibIfindex = 0, 1, 2, 4, 6, 8
		fibTOS, fibSrc, fibDst                                         = 12, 16, 32
		skbQueueMapping                                                = 12 // struct __sk_buff
		tcShot                                                         = 2
	)
	family, ipLen, src, dst, words := unix.AF_INET, encap.IPv4HeaderLen, 12, 16, 1
	if v6 {
		family, ipLen, src, dst, words = unix.AF_INET6, encap.IPv6HeaderLen, 8, 24, 4
	}
	udp := ip + ipLen
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, eth),
		asm.Mov.Imm(asm.R4, int32(encap.EthernetHeaderLen+ipLen+4)),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
		// r7 = &verdicts[worker]
		asm.LoadMem(asm.R1, asm.RFP, eth+6, asm.Half),
		asm.JGE.Imm(asm.R1, int32(workers), "drop"),
		asm.Mul.Imm(asm.R1, verdictStride),
		asm.LoadMapValue(asm.R7, verdicts.FD(), 0),
		asm.Add.Reg(asm.R7, asm.R1),
	}
	p = append(p, asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < fibLen; i += 8 {
		p = append(p, asm.StoreMem(asm.RFP, fib+i, asm.R1, asm.DWord))
	}
	store := func(to, value int, size asm.Size) {
		p = append(p, asm.Mov.Imm(asm.R1, int32(value)), asm.StoreMem(asm.RFP, int16(to), asm.R1, size))
	}
	move := func(to, from int, size asm.Size) {
		p = append(p, asm.LoadMem(asm.R1, asm.RFP, int16(from), size), asm.StoreMem(asm.RFP, int16(to), asm.R1, size))
	}
	store(fib+fibFamily, family, asm.Byte)
	store(fib+fibProto, encap.ProtoUDP, asm.Byte)
	p = append(p,
		asm.LoadMapValue(asm.R2, verdicts.FD(), uint32(lookupAt(workers))),
		asm.LoadMem(asm.R8, asm.R2, 0, asm.DWord),
		asm.StoreMem(asm.RFP, fib+fibIfindex, asm.R8, asm.Word),
		asm.RSh.Imm(asm.R8, 32))
	move(fib+fibSport, udp, asm.Half)
	move(fib+fibDport, udp+2, asm.Half)
	move(fib+fibTotLen, eth+8, asm.Half)
	if v6 {
		p = append(p, // flowinfo: traffic class and flow label
			asm.LoadMem(asm.R1, asm.RFP, ip, asm.Word),
			asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.And.Imm(asm.R1, 0x0fffffff),
			asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.StoreMem(asm.RFP, fib+fibTOS, asm.R1, asm.Word))
	} else {
		move(fib+fibTOS, ip+1, asm.Byte)
	}
	for i := range words {
		move(fib+fibSrc+4*i, ip+src+4*i, asm.Word)
		move(fib+fibDst+4*i, ip+dst+4*i, asm.Word)
	}
	p = append(p,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, fib),
		asm.Mov.Imm(asm.R3, fibLen),
		asm.Mov.Reg(asm.R4, asm.R8),
		asm.FnFibLookup.Call(),
		asm.JNE.Imm(asm.R0, 0, "refuse"))
	p = append(p,
		asm.LoadMem(asm.R1, asm.RFP, fib+fibIfindex, asm.Word),
		asm.StoreMem(asm.R7, 4, asm.R1, asm.Word),
		asm.LoadMapValue(asm.R2, verdicts.FD(), uint32(workers*verdictStride)))
	for i := range maxDevices {
		p = append(p,
			asm.LoadMem(asm.R3, asm.R2, int16(4*i), asm.Word),
			asm.JEq.Reg(asm.R1, asm.R3, "allowed"))
	}
	p = append(p,
		asm.Mov.Imm(asm.R0, int32(verdictOtherDevice-verdictSent)),
		asm.Ja.Label("refuse"),

		asm.Mov.Imm(asm.R1, int32(verdictSent)).WithSymbol("allowed"),
		asm.StoreMem(asm.R7, 0, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, fib+fibFamily, asm.Byte),
		asm.StoreMem(asm.RFP, nexth, asm.R1, asm.Word))
	for i := range 4 {
		move(nexth+4+4*i, fib+fibDst+4*i, asm.Word)
	}
	p = append(p,
		// Let the device choose its queue as it does for the socket's packets:
		// by the CPU or the flow, not by the queue of the uplink (skb_tx_hash).
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R6, skbQueueMapping, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, fib+fibIfindex, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, nexth),
		asm.Mov.Imm(asm.R3, nhLen),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),

		asm.Add.Imm(asm.R0, int32(verdictSent)).WithSymbol("refuse"),
		asm.StoreMem(asm.R7, 0, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, tcShot).WithSymbol("drop"),
		asm.Return())
	// The kernel lends bpf_fib_lookup only to programs under a licence
	// compatible with its own, so these instructions are under that one too.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "overtap_uplink", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: p,
	})
	if err != nil {
		return nil, fmt.Errorf("load the uplink's program: %w", err)
	}
	return prog, nil
}
