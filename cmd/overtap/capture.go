package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/capture"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// defaultCaptureSize bounds a capture to a file that nothing else bounds.
const defaultCaptureSize = 1 << 30

// captureFlags are those of `overtap capture`.
type captureFlags struct {
	daemonFlags
	roadFlags
	file    string
	snaplen int
	size    string
	json    bool
}

// roadFlags say what of the road is wanted, and how much.
type roadFlags struct {
	network  string
	points   []string
	count    int
	duration time.Duration
}

func (f *roadFlags) add(c *cobra.Command) {
	addOnlyNetwork(c, &f.network)
	c.Flags().IntVar(&f.count, "count", 0, "stop after so many frames that match; 0 = never")
	c.Flags().DurationVar(&f.duration, "duration", 0, "stop after so long, such as 30s or 5m; 0 = never")
}

func newCaptureCommand() *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use:   "capture [flags] [filter...]",
		Short: "Capture frames at points of the road, for wireshark or as lines",
		Long: `Capture frames where they pass a point of the road inside the daemon:

  tap-in    read from the TAP
  wire-out  sent to a peer, once for each
  wire-in   received for a network
  tap-out   written to the TAP
  dropped   dropped, for whatever reason

With -w they are written as pcapng, an interface for each network and point, with
peer and drop reason as a comment on each packet:

  overtap capture -w - | wireshark -k -i -
  overtap capture -w - --network blue | tshark -r -

else a line is printed for each. The filter is in tcpdump's words, and looks at the
inner frame: host, net, port, portrange, src, dst, ether, ip, ip6, arp, tcp, udp,
icmp, icmp6, vlan, vni, peer, less, greater; and, or, not, parentheses.

It ends when interrupted, or at --count, --size or --duration. To a file without
any of these it ends at --size 1G. Frames that come faster than they are read are
missed and counted, and never slow the road. Whoever may open the control socket
sees what all containers say.`,
		Example: `  overtap capture --network blue icmp or arp
  overtap capture --point dropped
  overtap capture -w /tmp/x.pcapng --duration 30s host 198.51.100.2 and tcp port 80
  overtap capture -w - peer 192.0.2.2 and not port 22 | tshark -r -`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	f.daemonFlags.add(c)
	f.roadFlags.add(c)
	c.Flags().StringVarP(&f.file, "write", "w", "", "write pcapng to `FILE`; - is standard output")
	c.Flags().StringSliceVar(&f.points, "point", nil, "only at these points: tap-in, wire-out, wire-in, tap-out, dropped")
	c.Flags().IntVar(&f.snaplen, "snaplen", 0, "keep so many bytes of each frame; 0 = all")
	c.Flags().StringVar(&f.size, "size", "", "with -w: stop when so many bytes are written, such as 500k, 10M or 2G; 0 = never")
	c.Flags().BoolVar(&f.json, "json", false, "print a JSON object a line")
	return c
}

// request is what the flags and the filter ask of the daemon.
func (f *roadFlags) request(args []string) (control.CaptureRequest, error) {
	r := control.CaptureRequest{Network: f.network, Filter: strings.Join(args, " ")}
	if err := r.Check(); err != nil {
		return r, err
	}
	for _, name := range f.points {
		var p dataplane.Point
		if err := p.UnmarshalText([]byte(name)); err != nil {
			return r, fmt.Errorf("--point: %w", err)
		}
		r.Points = append(r.Points, p)
	}
	if f.count < 0 {
		return r, fmt.Errorf("--count %d: want 0 or more", f.count)
	}
	if f.duration < 0 {
		return r, fmt.Errorf("--duration %v: want 0 or more", f.duration)
	}
	return r, nil
}

// emptyNetwork refuses --network "", as a variable without a value leaves it: to see
// all networks is to be asked for by leaving it out.
func emptyNetwork(c *cobra.Command) error {
	if flag := c.Flags().Lookup("network"); flag.Changed && flag.Value.String() == "" {
		return errors.New("--network \"\": want a network's name; all are seen without the flag")
	}
	return nil
}

// within ends with the duration, or when interrupted.
func (f *roadFlags) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	if f.duration == 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeout(ctx, f.duration)
	return ctx, func() { cancel(); stop() }
}

// errEnough ends a capture that has what it wants.
var errEnough = errors.New("enough")

func (f *captureFlags) run(c *cobra.Command, args []string) (err error) {
	want, err := f.request(args)
	size, sizeErr := parseSize(f.size)
	if err == nil {
		err = emptyNetwork(c)
	}
	switch {
	case err != nil:
	case sizeErr != nil:
		err = sizeErr
	case f.snaplen < 0:
		err = fmt.Errorf("--snaplen %d: want 0 or more", f.snaplen)
	case f.size != "" && f.file == "":
		err = errors.New("--size without -w: want a file to bound")
	case f.json && f.file != "":
		err = errors.New("--json with -w: want one of them")
	}
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	want.SnapLen = f.snaplen
	s := &captureSink{flags: f, size: size}
	defer func() { err = errors.Join(err, s.finish(c.ErrOrStderr())) }()

	ctx, stop := f.within(c.Context())
	defer stop()
	err = f.client().Capture(ctx, want, control.Captured{
		Ready:  func() error { return s.begin(c) },
		Record: s.record,
		Lost:   func(n uint64) { s.missed += n },
		Idle:   func() error { return s.buffered.Flush() },
	})
	if errors.Is(err, errEnough) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// open opens where to write, and reports whether that is a file that could grow.
func (f *captureFlags) open(c *cobra.Command) (out io.WriteCloser, grows bool, err error) {
	switch f.file {
	case "":
		return nopCloser{c.OutOrStdout()}, false, nil
	case "-":
		if isTerminal(c.OutOrStdout()) {
			return nil, false, errors.New("-w -: standard output is a terminal: pipe it to wireshark -k -i -, or leave -w out")
		}
		return nopCloser{c.OutOrStdout()}, false, nil
	}
	file, err := os.OpenFile(f.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("opening the capture file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("opening the capture file: %w", err), file.Close())
	}
	return file, info.Mode().Type() == fs.FileMode(0), nil
}

type nopCloser struct{ io.Writer }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

// describe says what is captured, and what ends it.
func (f *captureFlags) describe(size int64) string {
	what := "all networks"
	if f.network != "" {
		what = "network " + f.network
	}
	if len(f.points) > 0 {
		what += " at " + strings.Join(f.points, ", ")
	}
	var ends []string
	if f.count > 0 {
		ends = append(ends, "after "+counted(f.count, "frame"))
	}
	if size > 0 {
		ends = append(ends, fmt.Sprintf("at %d bytes", size))
	}
	if f.duration > 0 {
		ends = append(ends, fmt.Sprintf("after %v", f.duration))
	}
	return fmt.Sprintf("%s; it ends %s", what, strings.Join(append(ends, "when interrupted"), ", "))
}

// captureSink is where the frames go.
type captureSink struct {
	flags    *captureFlags
	size     int64          // 0 = any
	out      io.WriteCloser // nil before the daemon captures
	buffered *bufio.Writer
	file     *capture.File // nil for lines
	enc      *json.Encoder
	frames   int
	missed   uint64
}

// begin opens what is written to, once the daemon captures: what it refuses leaves
// a file as it was.
func (s *captureSink) begin(c *cobra.Command) error {
	f := s.flags
	out, grows, err := f.open(c)
	if err != nil {
		return err
	}
	s.out, s.buffered = out, bufio.NewWriterSize(out, 256<<10)
	if grows && f.size == "" && f.count == 0 && f.duration == 0 {
		s.size = defaultCaptureSize
	}
	s.enc = json.NewEncoder(s.buffered)
	if f.file != "" {
		if s.file, err = capture.NewFile(s.buffered, "overtap "+buildVersion()); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.ErrOrStderr(), "capturing %s\n", f.describe(s.size))
	return nil
}

func (s *captureSink) record(r *dataplane.Record) (err error) {
	switch {
	case s.file != nil:
		err = s.file.Write(r)
	case s.flags.json:
		err = s.enc.Encode(capture.NewJSON(r))
	default:
		_, err = fmt.Fprintln(s.buffered, capture.Line(r))
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	s.frames++
	if s.frames == s.flags.count || s.size > 0 && s.file != nil && s.file.Size() >= s.size {
		return errEnough
	}
	return nil
}

// finish completes a file, and says what there is.
func (s *captureSink) finish(status io.Writer) (err error) {
	if s.out == nil {
		return nil
	}
	if s.file != nil {
		err = s.file.Finish(s.missed)
	}
	err = errors.Join(err, s.buffered.Flush(), s.out.Close())
	if errors.Is(err, syscall.EPIPE) {
		err = nil // the reader has gone
	}
	fmt.Fprintf(status, "%s%s\n", counted(s.frames, "frame"), missed(s.missed))
	return err
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// missed says how many frames of the road were not seen.
func missed(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %s came faster than they were read, and were missed (before the filter)", counted(int(n), "frame"))
}

// parseSize reads a number of bytes with k, M or G of 1024; "" is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number, shift := s, 0
	for i, unit := range []string{"k", "M", "G"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			number, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("--size %q: want bytes such as 500k, 10M or 2G", s)
	}
	return n << shift, nil
}
