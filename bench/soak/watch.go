package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"overtap/dataplane"
)

// memoryAfter is how long a soak must be for its memory to be looked at: before,
// tables and buffers are still being touched for the first time.
const memoryAfter = 5 * time.Minute

const (
	sampleBeat   = 10 * time.Second
	scrapeLimit  = 10 * time.Second
	accountLimit = 10 * time.Second
)

// kinds are what is sampled of a daemon. What must not grow has room for noise: a
// tenth, and a constant. Entries come and go with flushes and ageing: no trend shows
// in them, but there are never more than stations that send, and the containers and
// static entries beside them.
var kinds = []struct {
	name  string
	room  float64
	most  float64       // 0: the trend is looked at
	after time.Duration // of a soak that is as long
}{
	{"goroutines", 6, 0, 0}, {"descriptors", 10, 0, 0}, {"RSS, MB", 4, 0, memoryAfter}, {"entries", 0, stationCount + 150, 0},
}

// sample is what one daemon held at one time, in the order of kinds.
type sample [4]float64

// watch samples the daemons until the time is up.
func (w *world) watch(end context.Context, o options, r *report) {
	beat := min(sampleBeat, o.time/20)
	for pause(end, beat) {
		for i, n := range w.nodes {
			s, err := n.sample()
			r.failed("sample", err)
			if err == nil {
				r.add(func() { r.samples[i] = append(r.samples[i], s) })
			}
		}
	}
}

func (n *node) sample() (s sample, err error) {
	page, err := n.scrape()
	if err != nil {
		return s, err
	}
	s[0] = sumOf(page, "go_goroutines")
	s[3] = sumOf(page, "overtap_fdb_entries{")
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.PID()))
	if err != nil {
		return s, err
	}
	s[1] = float64(len(fds))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			s[2] = kb / 1000
			return s, err
		}
	}
	return s, errors.New("/proc/PID/status has no VmRSS")
}

// scrape reads the metrics as Prometheus does.
func (n *node) scrape() ([]string, error) {
	var conn net.Conn
	if err := n.Host.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", metrics, scrapeLimit)
		return err
	}); err != nil {
		return nil, err
	}
	defer conn.Close()
	req, err := http.NewRequest(http.MethodGet, "http://"+metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	if err := errors.Join(conn.SetDeadline(time.Now().Add(scrapeLimit)), req.Write(conn)); err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	return strings.Split(string(b), "\n"), nil
}

// sumOf adds up the metrics whose lines begin so.
func sumOf(page []string, prefix string) (sum float64) {
	for _, line := range page {
		if f := strings.Fields(line); strings.HasPrefix(line, prefix) && len(f) > 1 {
			v, err := strconv.ParseFloat(f[len(f)-1], 64)
			if err == nil {
				sum += v
			}
		}
	}
	return sum
}

// trend is what became of one kind over the soak.
type trend struct {
	first, last, most float64 // medians of the first and last third after the warm-up
	grown             bool
}

// trendOf leaves the first fifth out, in which tables and heap fill, and wants the
// last third of the rest to hold no more than the first, give or take a tenth and
// the room; or, where most is given, no sample to hold more than that.
func trendOf(values []float64, room, most float64) (t trend, ok bool) {
	for _, v := range values {
		t.most = max(t.most, v)
	}
	rest := values[len(values)/5:]
	third := len(rest) / 3
	if third == 0 {
		return t, false
	}
	t.first, t.last = median(rest[:third]), median(rest[len(rest)-third:])
	if most > 0 {
		t.grown = t.most > most
	} else {
		t.grown = t.last > 1.1*t.first+room
	}
	return t, true
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// stats asks the daemon.
func (n *node) stats(ctx context.Context) (s dataplane.Stats, err error) {
	out, err := n.Verb(ctx, "stats", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("read overtap stats: %w", err)
	}
	return s, nil
}

// kernelDrops are the frames that the kernel found no room for at the devices of the
// hosts and containers, by host and device: a TAP whose ring is full, a veth pair
// whose other end has too much waiting (tun_net_xmit, veth_forward_skb).
func (w *world) kernelDrops() (map[string]uint64, error) {
	names, err := w.lab.Hosts()
	if err != nil {
		return nil, err
	}
	all := make(map[string]uint64)
	for _, name := range names {
		h, err := w.lab.Host(name)
		if err != nil {
			return nil, err
		}
		links, err := h.Links()
		if err != nil {
			return nil, err
		}
		for _, dev := range links {
			c, err := h.Counters(dev)
			if err != nil {
				return nil, err
			}
			all[name+" "+dev] = c.TxDropped
		}
	}
	return all, nil
}

// dropCounts are frames dropped, by reason.
type dropCounts map[dataplane.Drop]uint64

func dropsOf(s dataplane.Stats) dropCounts {
	d := make(dropCounts)
	for _, row := range s.Drops {
		d[row.Reason] += row.Count
	}
	return d
}

// account waits until the hosts are quiet and holds what each daemon took against
// what it says became of it.
func (w *world) account(ctx context.Context, r *report) error {
	for i, n := range w.nodes {
		problem := ""
		for deadline := time.Now().Add(accountLimit); ; time.Sleep(100 * time.Millisecond) {
			s, err := n.stats(ctx)
			if err != nil {
				return err
			}
			r.drops[i] = dropsOf(s)
			maps.DeleteFunc(r.drops[i], func(d dataplane.Drop, count uint64) bool { return count == n.settled[d] })
			for d := range r.drops[i] {
				r.drops[i][d] -= n.settled[d]
			}
			r.socketDropped[i] = 0
			for _, wire := range s.Wire {
				r.socketDropped[i] += wire.SocketDropped
			}
			r.frames[i] = 0
			for _, net := range s.Networks {
				r.frames[i] += net.TxOffered + net.RxOffered
			}
			if problem = unbalanced(s); problem == "" || time.Now().After(deadline) {
				break
			}
		}
		if problem != "" {
			r.failed("conservation", fmt.Errorf("on host %s: %s", n.Host.Name(), problem))
		}
		if left := strings.Index(n.Log(), "panic:"); left >= 0 {
			r.failed("log", fmt.Errorf("on host %s: %s", n.Host.Name(), n.Log()[left:]))
		}
	}
	return nil
}

// unbalanced says of which network not all that was offered was moved on, dropped
// or answered; "" of none.
func unbalanced(s dataplane.Stats) string {
	type way struct {
		network   string
		direction dataplane.Direction
	}
	drops := make(map[way]uint64)
	for _, d := range s.Drops {
		drops[way{d.Network, d.Direction}] += d.Count
	}
	for _, n := range s.Networks {
		out, in := drops[way{n.Network, dataplane.Outbound}], drops[way{n.Network, dataplane.Inbound}]
		if n.TxPackets+n.Suppressed+out != n.TxOffered || n.RxPackets+in != n.RxOffered {
			return fmt.Sprintf("%+v, dropped %d out and %d in", n, out, in)
		}
	}
	return ""
}
