package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/capture"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/printable"
	"overtap/dataplane"
)

// defaultCaptureSize bounds a capture to a file that nothing else bounds.
const defaultCaptureSize = 1 << 30

// captureFlags are those of `overtap capture`.
type captureFlags struct {
	daemonFlags
	streamFlags
	file    string
	snaplen int
	size    string
	json    bool
}

// streamFlags say which frames are wanted, and how many.
type streamFlags struct {
	network  string
	points   []string
	count    int
	duration time.Duration
}

func (f *streamFlags) add(c *cobra.Command) {
	addNetwork(c, &f.network, onlyNetwork)
	c.Flags().IntVar(&f.count, "count", 0, "stop after so `MANY` frames that match; 0 = never")
	c.Flags().DurationVar(&f.duration, "duration", 0, "stop after this `TIME`, such as 30s or 5m; 0 = never")
}

func newCaptureCommand() *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use:   "capture [flags] [filter...]",
		Short: "Capture frames at points of their path, for wireshark or as lines",
		Long: `Capture frames where they pass a point of their path inside the daemon:

  tap-in    read from the TAP
  wire-out  sent to a peer, once for each
  wire-in   received for a network
  tap-out   written to the TAP
  dropped   dropped, for any reason

With -w they are written as pcapng, an interface for each network and point, with
peer and drop reason as a comment on each packet; otherwise a line is printed for
each:

  overtap capture -w - | wireshark -k -i -
  overtap capture -w - peer 192.0.2.2 and not port 22 | tshark -r -

The filter is in tcpdump's language, and applies to the inner frame: host, net, port, portrange, src, dst, ether, ip, ip6, arp, tcp, udp,
icmp, icmp6, vlan, vni, peer, less, greater; and, or, not, parentheses.

It ends when interrupted, or at --count, --size or --duration. To a file without
any of these it ends at --size 1G. The file gets mode 0600; a symbolic link, a file
with several hard links and a file of another user are refused. Frames that come
faster than they are read are missed and counted; they never slow the daemon. Every
user who may open the control socket sees the frames of all containers.`,
		Example: `  overtap capture --point dropped --network blue icmp or arp
  overtap capture -w x.pcapng --duration 30s host 198.51.100.2 and tcp port 80`,
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	f.daemonFlags.add(c)
	f.streamFlags.add(c)
	c.Flags().StringVarP(&f.file, "write", "w", "", "write pcapng to `FILE`; - is standard output")
	c.Flags().StringSliceVar(&f.points, "point", nil, "only at these `POINTS`: tap-in, wire-out, wire-in, tap-out, dropped")
	complete(c, "point", completeWords(points()))
	c.Flags().IntVar(&f.snaplen, "snaplen", 0, "keep so many `BYTES` of each frame; 0 = all")
	c.Flags().StringVar(&f.size, "size", "", "with -w: stop when so many `BYTES` are written, such as 500k, 10M or 2G; 0 = never")
	c.Flags().BoolVar(&f.json, "json", false, "print a JSON object a line")
	return c
}

// request makes the request to the daemon from the flags and the filter.
func (f *streamFlags) request(c *cobra.Command, args []string) (control.CaptureRequest, error) {
	r := control.CaptureRequest{Network: f.network, Filter: strings.Join(args, " ")}
	for _, name := range f.points {
		var p dataplane.Point
		if err := p.UnmarshalText([]byte(name)); err != nil {
			return r, fmt.Errorf("--point: %w", err)
		}
		r.Points = append(r.Points, p)
	}
	switch {
	case f.count < 0:
		return r, fmt.Errorf("--count %d: want 0 or more", f.count)
	case f.duration < 0:
		return r, fmt.Errorf("--duration %v: want 0 or more", f.duration)
	case f.network == "" && c.Flags().Changed("network"): // by a variable without a value
		return r, errors.New("--network \"\": want a network's name; all are seen without the flag")
	}
	return r, r.Check()
}

// within ends with the duration, or when interrupted.
func (f *streamFlags) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	if f.duration == 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeout(ctx, f.duration)
	return ctx, func() { cancel(); stop() }
}

// errEnough ends a capture that has as much as was asked for.
var errEnough = errors.New("enough")

func (f *captureFlags) run(c *cobra.Command, args []string) (err error) {
	want, err := f.request(c, args)
	s := &captureSink{flags: f}
	if err == nil {
		s.size, err = parseSize(f.size)
	}
	switch {
	case err != nil:
	case f.snaplen < 0:
		err = fmt.Errorf("--snaplen %d: want 0 or more", f.snaplen)
	case f.size != "" && f.file == "":
		err = errors.New("--size without -w: want a file")
	case f.json && f.file != "":
		err = errors.New("--json with -w: want one of them")
	}
	if err != nil {
		return usageError{err}
	}
	want.SnapLen = f.snaplen
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
		return nopCloser{printable.Raw(c.OutOrStdout())}, false, nil
	}
	return createCapture(f.file)
}

// createCapture opens the file at path for a capture, and reports whether it is a
// regular file. Its directory may be one where others can make files: a symbolic link
// is not followed, and an existing file is written to only if it is this user's, and
// gets mode 0600; a pipe or a device may also be root's.
func createCapture(path string) (_ *os.File, regular bool, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, false, fmt.Errorf("opening the capture file: %s is a symbolic link: name the file itself, or - for standard output", path)
	case err != nil:
		return nil, false, fmt.Errorf("opening the capture file: %w", err)
	}
	regular, err = claimCapture(file)
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("opening the capture file %s: %w", path, err), file.Close())
	}
	return file, regular, nil
}

// claimCapture empties the file and makes it readable to this user alone.
func claimCapture(file *os.File) (regular bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return false, err
	}
	regular = st.Mode&unix.S_IFMT == unix.S_IFREG
	own := int(st.Uid) == os.Geteuid()
	switch {
	case !own && (regular || st.Uid != 0):
		return regular, fmt.Errorf("it belongs to user %d: remove it, or name another file", st.Uid)
	case !regular:
		return false, nil
	case st.Nlink != 1:
		return true, fmt.Errorf("it has %d names (hard links): remove it, or name another file", st.Nlink)
	}
	if err := file.Chmod(0o600); err != nil {
		return true, err
	}
	return true, file.Truncate(0)
}

type nopCloser struct{ io.Writer }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

// describe says which frames are captured, and when the capture ends.
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
		ends = append(ends, "after "+plural(f.count, "frame", "frames"))
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

// begin opens the output once the daemon captures: a refused request leaves a file
// unchanged.
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

// finish completes a file, and reports how many frames there are.
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
	fmt.Fprintf(status, "%s%s\n", plural(s.frames, "frame", "frames"), missed(s.missed))
	return err
}

// missed says how many frames were not seen.
func missed(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %s came faster than they were read, and were missed (before the filter)", plural(int(n), "frame", "frames"))
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
