package lab

import (
	"context"
	"fmt"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
)

// Speed sends TCP between two containers of a running lab, each way for a
// time, and prints what arrived. For nil it is the only lab there is.
func Speed(ctx context.Context, p *Printer, t *Topology, each time.Duration) error {
	if err := needRoot(p, "speed"); err != nil {
		return err
	}
	t, err := running(p, t)
	if err != nil {
		return err
	}
	l, err := netlab.Open(t.Name)
	if err != nil {
		return err
	}
	way := t.pings[len(t.pings)-1]
	for _, names := range [][2]string{way, {way[1], way[0]}} {
		var ends [2]traffic.End
		for i, name := range names {
			h, err := l.Host(name)
			if err != nil {
				return err
			}
			ends[i] = traffic.End{Host: h, Addr: t.container(name).v4.Addr()}
		}
		r, err := traffic.TCP(ctx, ends[0], ends[1], traffic.TCPOptions{Duration: each})
		if err != nil {
			return fmt.Errorf("lab %s: TCP from %s to %s: %w", t.Name, names[0], names[1], err)
		}
		p.printf("TCP %s → %s  %6.2f Gbit/s  (%s in %v, %s)\n", names[0], names[1], r.BitsPerSecond()/1e9,
			bytesText(uint64(r.Bytes)), r.Elapsed.Round(10*time.Millisecond),
			plural(int(r.Retransmits), "segment sent again", "segments sent again"))
	}
	return nil
}
