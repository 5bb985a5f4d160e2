// Package guest boots a second kernel to be a peer in a lab: Debian's, in QEMU
// under software emulation, which takes two to three seconds. It has what this
// machine's kernel may lack, the ipip device above all, and is another version
// of the vxlan device.
//
//	      host a                     the guest's namespace
//	┌──────────────────┐          ┌────────────────────────┐
//	│ overtap   eth0 ──┼── veth ──┼─ br0 ── tap0           │
//	└──────────────────┘          │          │  QEMU       │
//	                              │    ┌─────┴──────────┐  │
//	                              │    │ eth0     tun0  │  │
//	                              │    │ Linux 6.1  vx0 │  │
//	                              │    └────────────────┘  │
//	                              └────────────────────────┘
//
// build.sh makes kernel and initramfs from the packages of this machine's Debian:
// 6.1 is bookworm's. What the guest
// must do is said in shell scripts that go in by a serial line of their own:
// it has busybox, ip, bridge and the program of folder end.
package guest
