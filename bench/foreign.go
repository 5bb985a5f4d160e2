package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"overtap/bench/netlab"
)

// The foreign loads are made by programs that many people compare tunnels with.
// They differ from the own loads in what they cost: see docs/performance.md.

const (
	iperf3   = "iperf3"
	sockperf = "sockperf"

	iperf3Port   = "5201"
	sockperfPort = "11111"
	// foreignStart bounds how long a server takes to listen.
	foreignStart = 10 * time.Second
)

// Installed reports whether the program that makes the load is in PATH.
func (l Load) Installed() bool {
	if l.Program == "" {
		return true
	}
	_, err := exec.LookPath(l.Program)
	return err == nil
}

// seconds is the duration as the programs take it: whole seconds, one at least.
func seconds(d time.Duration) string {
	return strconv.Itoa(max(1, int(d.Round(time.Second)/time.Second)))
}

func iperf3TCP(flows int) func(context.Context, turn) (Sample, error) {
	return func(ctx context.Context, t turn) (Sample, error) {
		out, err := t.iperf3(ctx, "-P", strconv.Itoa(flows))
		if err != nil {
			return Sample{}, err
		}
		return parseIperf3(out, flows)
	}
}

// iperf3UDP floods with datagrams of size bytes. The buffers of the sockets are
// the 4 MB that iperf3's documentation advises for high rates.
func iperf3UDP(size int) func(context.Context, turn) (Sample, error) {
	return func(ctx context.Context, t turn) (Sample, error) {
		out, err := t.iperf3(ctx, "-u", "-b", "0", "-l", strconv.Itoa(size), "-w", "4M")
		if err != nil {
			return Sample{}, err
		}
		return parseIperf3(out, 1)
	}
}

// iperf3 runs a server for one client at the target and a client at the sender,
// and returns what the client prints.
func (t turn) iperf3(ctx context.Context, args ...string) ([]byte, error) {
	stop, err := serve(t.to.Host, iperf3, "-s", "-1", "-B", t.to.Addr.String(), "-p", iperf3Port)
	if err != nil {
		return nil, err
	}
	defer stop()
	args = append([]string{"-c", t.to.Addr.String(), "-p", iperf3Port, "-t", seconds(t.Duration), "-J"}, args...)
	return client(ctx, t.from.Host, func(out []byte) bool {
		return bytes.Contains(out, []byte("Connection refused"))
	}, iperf3, args...)
}

// iperf3Result is the part of iperf3's JSON that is read. Sums of UDP stand in
// sum, those of TCP in sum_sent and sum_received.
type iperf3Result struct {
	Error string `json:"error"`
	End   struct {
		Streams []json.RawMessage `json:"streams"`
		Sent    iperf3Sum         `json:"sum_sent"`
		Recv    iperf3Sum         `json:"sum_received"`
		UDP     *iperf3Sum        `json:"sum"`
	} `json:"end"`
}

type iperf3Sum struct {
	Seconds     float64 `json:"seconds"`
	Bytes       float64 `json:"bytes"`
	Bits        float64 `json:"bits_per_second"`
	Retransmits int64   `json:"retransmits"`
	Packets     int64   `json:"packets"`
	Lost        int64   `json:"lost_packets"`
}

// parseIperf3 reads what a client printed of so many flows.
func parseIperf3(out []byte, flows int) (Sample, error) {
	var r iperf3Result
	if err := json.Unmarshal(out, &r); err != nil {
		return Sample{}, fmt.Errorf("iperf3's JSON: %w", err)
	}
	if r.Error != "" {
		return Sample{}, errors.New("iperf3: " + r.Error)
	}
	if n := len(r.End.Streams); n != flows {
		return Sample{}, fmt.Errorf("iperf3 reports %d streams, want %d", n, flows)
	}
	if u := r.End.UDP; u != nil {
		if u.Seconds <= 0 || u.Packets <= 0 {
			return Sample{}, fmt.Errorf("iperf3 sent %d datagrams in %g s", u.Packets, u.Seconds)
		}
		c := Counts{Offered: u.Packets, Received: u.Packets - u.Lost, Lost: u.Lost}
		return Sample{UDP: &UDPSample{
			OfferedPerSecond:  float64(c.Offered) / u.Seconds,
			ReceivedPerSecond: float64(c.Received) / u.Seconds,
			Counts:            c,
			Bytes:             int64(u.Bytes * float64(c.Received) / float64(c.Offered)),
		}}, nil
	}
	if r.End.Recv.Bits <= 0 {
		return Sample{}, errors.New("iperf3 delivered nothing")
	}
	// What is still in flight at the end is not lost.
	got := int64(r.End.Recv.Bytes)
	return Sample{TCP: &TCPSample{
		BitsPerSecond: r.End.Recv.Bits,
		Counts:        Counts{Offered: got, Received: got},
		Retransmits:   r.End.Sent.Retransmits,
	}}, nil
}

// sockperfPingPong sends 64-byte datagrams to and fro, one at a time.
func sockperfPingPong(ctx context.Context, t turn) (Sample, error) {
	addr := []string{"-i", t.to.Addr.String(), "-p", sockperfPort}
	stop, err := serve(t.to.Host, sockperf, append([]string{"server"}, addr...)...)
	if err != nil {
		return Sample{}, err
	}
	defer stop()
	out, err := client(ctx, t.from.Host, func(out []byte) bool {
		return bytes.Contains(out, []byte("messages was received from the server"))
	}, sockperf, append([]string{"ping-pong", "-t", seconds(t.Duration), "-m", "64"}, addr...)...)
	if err != nil {
		return Sample{}, err
	}
	return parseSockperf(string(out))
}

var (
	sockperfRTT = regexp.MustCompile(`percentile (50|99)\.0+ = +([0-9.]+)`)
	sockperfRun = regexp.MustCompile(`\[Valid Duration\].*SentMessages=([0-9]+); ReceivedMessages=([0-9]+)`)
)

// parseSockperf reads what a client printed. Its latencies are half round trips,
// in microseconds.
func parseSockperf(out string) (Sample, error) {
	at := map[string]time.Duration{}
	for _, m := range sockperfRTT.FindAllStringSubmatch(out, -1) {
		us, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return Sample{}, fmt.Errorf("sockperf: %w", err)
		}
		at[m[1]] = time.Duration(us * float64(time.Microsecond))
	}
	m := sockperfRun.FindStringSubmatch(out)
	if m == nil || at["50"] <= 0 || at["99"] <= 0 {
		return Sample{}, fmt.Errorf("sockperf printed no latencies: %s", strings.TrimSpace(out))
	}
	sent, err1 := strconv.ParseInt(m[1], 10, 64)
	received, err2 := strconv.ParseInt(m[2], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Sample{}, fmt.Errorf("sockperf: %w", err)
	}
	return Sample{RTT: &RTTSample{
		HalfMedian: at["50"], HalfP99: at["99"],
		Counts: Counts{Offered: sent, Received: received, Lost: sent - received},
	}}, nil
}

// serve starts a server in the host. stop ends it and waits for it.
func serve(h *netlab.Host, name string, args ...string) (stop func(), err error) {
	c := h.Command(name, args...)
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("host %s: start %s: %w", h.Name(), name, err)
	}
	return func() {
		c.Process.Kill()
		c.Wait()
	}, nil
}

// client runs a program in the host and returns what it prints, and again while
// its output says that the server does not listen yet.
func client(ctx context.Context, h *netlab.Host, early func([]byte) bool, name string, args ...string) ([]byte, error) {
	for deadline := time.Now().Add(foreignStart); ; {
		var out, errs bytes.Buffer
		c := h.Command(name, args...)
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Start(); err != nil {
			return nil, fmt.Errorf("host %s: start %s: %w", h.Name(), name, err)
		}
		ended := context.AfterFunc(ctx, func() { c.Process.Kill() })
		err := c.Wait()
		ended()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case (early(out.Bytes()) || early(errs.Bytes())) && time.Now().Before(deadline):
			time.Sleep(50 * time.Millisecond)
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w: %s%s", name, err, errs.Bytes(), bytes.TrimSpace(out.Bytes()))
		}
		return out.Bytes(), nil
	}
}
