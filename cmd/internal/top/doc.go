// Package top is the live view of a daemon: its networks, peers, drops and
// forwarding table, with rates, on a terminal.
//
//	sample.go    what is asked of the daemon, again and again
//	rates.go     two samples become rates
//	history.go   the last minute of a rate, and its sparkline
//	table.go     rows and columns: order, filter, what fits a width
//	views.go     the tables of the views
//	format.go    numbers and texts in a cell
//	screen.go    what stands on the screen, as lines of a given width
//	keys.go      what a key does
//	program.go   the terminal: who asks, who draws, how it ends
//	once.go      one screen for scripts
//
// All but the last two neither ask nor draw: what they return depends on their
// arguments alone.
package top
