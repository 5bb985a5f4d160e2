// Package bench measures what carries containers' traffic between two hosts: a
// row is who makes the tunnel, an underlay is what the hosts' devices do for the
// stack, a load is what the containers send. Rows of one run take turns, A B A
// B, so that whatever else the machine does falls on all of them; a figure is
// the median of the turns and stands beside the kernel's of the same run.
//
//	   row            site a             site b
//	plain             br0 ────── veth ────── br0
//	kernel            vx0 (kernel)   (kernel) vx0
//	overtap       TAP overtap        (kernel) vx0     both directions measured
//	overtap2      TAP overtap         overtap TAP
//
// The hosts are network namespaces of this machine, and the load is made on the
// same CPUs: read the figures as ratios.
//
//	row.go       rows, the underlays' names and lanes, a row in one direction
//	bed.go       what a row runs on
//	daemon.go    the overtap binary and its processes
//	load.go      the table of loads; loads.go has what each of them does, foreign.go
//	             those of iperf3 and sockperf
//	sample.go    what one turn came to, and what it cost (cpu.go)
//	plan.go      the run: who takes turns with whom
//	report.go    what it came to; markdown.go, svg.go and machine.go print it
//	observe.go   what it costs to watch the daemon
//
// `go run ./bench/report` does it all; `go test -bench . ./bench` a part of it.
package bench
