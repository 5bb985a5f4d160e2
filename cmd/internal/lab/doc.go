// Package lab is the lab verb: two hosts and their containers as network
// namespaces of this machine, with overtap between them and the kernel's vxlan,
// or another overtap, at the other end. It is what a newcomer runs first.
//
// What a lab is made of stands in the table of topology.go. What a running lab
// leaves on the machine, and Down removes:
//
//	/run/netns/ot-<lab>-<host>     its hosts and containers, see bench/netlab
//	/run/overtap/lab/<lab>/        of each host with a daemon <host>.toml,
//	                               <host>.log and <host>.sock; lab.json
//	…/overtap/lab/<lab>/overtap    the daemons' binary; below /var/lib where
//	                               /run is mounted noexec
//
// Any of it may be missing after a crash: a lab that is not whole is damaged,
// and Up and Down remove what there is. Up and Down of all labs exclude each
// other by a lock on /run/overtap/lab.
package lab
