// Package lab is the lab verb: hosts and their containers as network namespaces
// of this machine, with overtap in them and, where the topology has it, the
// kernel's vxlan at the other end. It is what a newcomer runs first.
//
// What a lab is made of stands in the table of topology.go: a topology is data,
// made by a function of its own file. What a running lab leaves on the machine,
// and Down removes:
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
