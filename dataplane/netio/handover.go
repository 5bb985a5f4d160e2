package netio

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Open is what an engine has open.
type Open struct {
	Devices []OpenDevice
	Conns   []OpenConns
}

// OpenDevice is a device with its queues by worker.
type OpenDevice struct {
	Name       string
	TUN, Plain bool
	Queues     []Device
}

// OpenConns are the connections of a UDP port by worker, or the one of a multicast
// group on it, or those of IP-in-IP.
type OpenConns struct {
	Port  uint16
	Group netip.Addr
	IPIP  bool
	Conns []Conn
}

// Handover is what a backend leaves to another, in this process or in another one: the
// open queues and sockets, so that what waits in them is not lost and no peer sees
// other source ports. It is plain data but for the file descriptors, which are passed
// by SCM_RIGHTS in the order of Each.
type Handover struct {
	Workers int              `json:"workers"`
	Devices []HandoverDevice `json:"devices"`
	Ports   []HandoverPort   `json:"ports"`
	// IPIP are the raw sockets: the one that receives, then those that send, by
	// worker.
	IPIP []int `json:"ipip"`
	// DF and Frag are the sockets of the pool of source ports, and SourcePorts
	// the ports of DF, then of Frag.
	DF          []int    `json:"df"`
	Frag        []int    `json:"frag"`
	SourcePorts []uint16 `json:"source_ports"`
}

// HandoverDevice are the queues of a TAP or TUN, by worker.
type HandoverDevice struct {
	Name     string   `json:"name"`
	TUN      bool     `json:"tun"`
	Plain    bool     `json:"plain"`
	Offloads []string `json:"offloads"`
	FDs      []int    `json:"fds"`
}

// HandoverPort are the sockets of a UDP port by worker, or the one of a multicast
// group on it.
type HandoverPort struct {
	Port  uint16     `json:"port"`
	Group netip.Addr `json:"group,omitzero"`
	FDs   []int      `json:"fds"`
}

// Each calls f with every file descriptor, in an order that depends on the other
// data alone, until f fails.
func (b *Handover) Each(f func(fd *int) error) error {
	lists := [][]int{b.IPIP, b.DF, b.Frag}
	for _, d := range b.Devices {
		lists = append(lists, d.FDs)
	}
	for _, p := range b.Ports {
		lists = append(lists, p.FDs)
	}
	for _, fds := range lists {
		for i := range fds {
			if err := f(&fds[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes the descriptors that no backend has made its own.
func (b *Handover) Close() {
	_ = b.Each(func(fd *int) error { return unix.Close(*fd) })
	*b = Handover{}
}
