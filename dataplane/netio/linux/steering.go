package linux

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// steered stands among the offloads of a device whose flows keep their queues.
const steered = "steering"

// steering deals the flows of a device to its queues. By itself the kernel moves
// a flow to the queue on which its other direction was last written (tun's
// automatic multi-queue), which is another worker, and its frames change places
// on the way.
type steering struct {
	frames  func() (*ebpf.Program, error)
	packets func() (*ebpf.Program, error)
}

// newSteering loads nothing yet: a device of one queue needs no program.
func newSteering() *steering {
	load := func(l3 int32) func() (*ebpf.Program, error) {
		return sync.OnceValues(func() (*ebpf.Program, error) { return steeringProgram(l3) })
	}
	return &steering{frames: load(encap.EthernetHeaderLen), packets: load(0)}
}

// attach gives the device of queue fd its program. The device holds it from
// then on.
func (s *steering) attach(fd int, tun bool) error {
	load := s.frames
	if tun {
		load = s.packets
	}
	prog, err := load()
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETSTEERINGEBPF, prog.FD()); err != nil {
		return fmt.Errorf("TUNSETSTEERINGEBPF: %w", err)
	}
	return nil
}

// steeringProgram returns the program that the kernel asks for the queue of a
// packet (tun_ebpf_select_queue, which takes the answer modulo the number of
// queues): a hash of addresses and, for TCP and UDP, ports. Fragments have no
// ports but the first, so that of fragments the addresses alone count. IP begins
// at l3; with 0 there is no Ethernet header, and what is not IP goes by its
// addresses. A load behind the end of the packet ends the program with 0.
func steeringProgram(l3 int32) (*ebpf.Program, error) {
	const (
		key   = 0x9e3779b1 - 1<<32 // an odd number near 2^32 over the golden ratio
		ports = "ports"
		done  = "done"
	)
	// r7 gathers the hash. Loads change r0 to r5.
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), // the context, where loads look for it
		asm.Mov.Imm(asm.R7, 0),
	}
	add := func(first, words int32) {
		for i := range words {
			p = append(p,
				asm.LoadAbs(first+4*i, asm.Word),
				asm.Xor.Reg(asm.R7, asm.R0),
				asm.Mul.Imm(asm.R7, key),
				asm.Mov.Reg(asm.R1, asm.R7), asm.RSh.Imm(asm.R1, 29), asm.Xor.Reg(asm.R7, asm.R1))
		}
	}
	symbol := func(name string) { p[len(p)-1] = p[len(p)-1].WithSymbol(name) }

	if l3 != 0 {
		p = append(p,
			asm.LoadAbs(l3-2, asm.Half),
			asm.JEq.Imm(asm.R0, int32(encap.EtherTypeIPv4), "ipv4"),
			asm.JEq.Imm(asm.R0, int32(encap.EtherTypeIPv6), "ipv6"))
		add(0, 3)
		p = append(p, asm.Ja.Label(done))
	} else {
		p = append(p,
			asm.LoadAbs(0, asm.Byte),
			asm.RSh.Imm(asm.R0, 4),
			asm.JEq.Imm(asm.R0, 6, "ipv6"))
	}

	p = append(p, asm.LoadAbs(l3+9, asm.Byte))
	symbol("ipv4")
	p = append(p, asm.Mov.Reg(asm.R9, asm.R0)) // protocol
	add(l3+12, 2)
	p = append(p,
		asm.LoadAbs(l3+6, asm.Half),
		asm.And.Imm(asm.R0, 0x3fff), // more fragments, or an offset
		asm.JNE.Imm(asm.R0, 0, done),
		asm.LoadAbs(l3, asm.Byte),
		asm.And.Imm(asm.R0, 0xf),
		asm.LSh.Imm(asm.R0, 2),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Ja.Label(ports))

	p = append(p, asm.LoadAbs(l3+6, asm.Byte))
	symbol("ipv6")
	p = append(p, asm.Mov.Reg(asm.R9, asm.R0))
	add(l3+8, 8)
	p = append(p, asm.Mov.Imm(asm.R8, encap.IPv6HeaderLen))

	p = append(p, asm.JEq.Imm(asm.R9, encap.ProtoTCP, "load"))
	symbol(ports)
	p = append(p,
		asm.JNE.Imm(asm.R9, encap.ProtoUDP, done),
		asm.LoadInd(asm.R0, asm.R8, l3, asm.Word).WithSymbol("load"),
		asm.Xor.Reg(asm.R7, asm.R0),

		asm.Mul.Imm(asm.R7, key).WithSymbol(done),
		asm.Mov.Reg(asm.R0, asm.R7),
		asm.RSh.Imm(asm.R0, 32),
		asm.Return())

	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "overtap_steer", Type: ebpf.SocketFilter, License: "Apache-2.0", Instructions: p,
	})
	if err != nil {
		return nil, fmt.Errorf("load the program that deals flows to queues: %w", err)
	}
	return prog, nil
}
