package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon that takes the place of another asks for it on the control socket. The
// connection then carries messages both ways: a length of four bytes, big-endian,
// and JSON; open files come beside their bytes (SCM_RIGHTS).

const (
	// takeoverFormat is that of the messages and what they carry. Daemons of
	// different formats do not hand over to each other.
	takeoverFormat = 1
	takeoverName   = "overtap-takeover"
	// takeoverTimeout bounds each message: the time that a daemon which took all
	// over, or is about to, may need until the next.
	takeoverTimeout = 20 * time.Second
	// filesPerMessage is below the kernel's bound of 253 (SCM_MAX_FD).
	filesPerMessage = 200
	maxMessage      = 64 << 20
)

// takeoverRequest is what is asked.
type takeoverRequest struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the program that asks
}

// Handover is a connection between a daemon and the one that takes its place. It
// belongs to one goroutine at each end.
type Handover struct {
	conn  *net.UnixConn
	files []int       // received, and not taken yet
	uncut func() bool // stops that the end of TakeOver's context cuts it off
}

// message is one of them.
type message struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`
}

// The kinds of messages that the connection itself needs.
const (
	kindBegin  = "begin" // of the one that asks: it reads messages from now on
	kindFiles  = "files"
	kindFailed = "failed" // its body says why
)

// handleTakeover routes the request to take d's place.
func handleTakeover(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathTakeover, func(w http.ResponseWriter, r *http.Request) {
		var in takeoverRequest
		if !request(w, r, &in) {
			return
		}
		if in.Format != takeoverFormat {
			refuse(w, http.StatusBadRequest, fmt.Errorf("the daemon hands over by format %d, and %s takes over by format %d", takeoverFormat, in.Version, in.Format))
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			refuse(w, http.StatusInternalServerError, fmt.Errorf("handing over: %w", err))
			return
		}
		defer conn.Close()
		c, ok := conn.(*handingConn)
		if !ok {
			return // nothing but a unix socket carries files
		}
		s := &Handover{conn: c.UnixConn}
		defer s.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+takeoverName+"\r\n\r\n"); err != nil {
			return
		}
		if s.Receive(kindBegin, nil) == nil {
			d.HandOver(s)
		}
	})
}

// TakeOver asks the daemon to hand over to this program, of that version. The
// connection is cut off when ctx ends, until KeepOpen.
func (c *Client) TakeOver(ctx context.Context, version string) (*Handover, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, c.explain(err)
	}
	s := &Handover{conn: conn.(*net.UnixConn)}
	if !trusted(s.conn) {
		s.Close()
		return nil, fmt.Errorf("who listens on %s is neither root nor the user of this program: what it hands over is not trusted", c.socket)
	}
	s.uncut = context.AfterFunc(ctx, s.Cut)
	if err := s.ask(c, version); err != nil {
		s.Close()
		return nil, fmt.Errorf("the daemon that runs does not hand over: %w: stop it first", err)
	}
	return s, nil
}

// ask makes the connection one of messages.
func (s *Handover) ask(c *Client, version string) error {
	if err := s.conn.SetDeadline(time.Now().Add(takeoverTimeout)); err != nil {
		return err
	}
	body, err := json.Marshal(takeoverRequest{Format: takeoverFormat, Version: version})
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://overtap"+pathTakeover, strings.NewReader(string(body)))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", takeoverName)
	if err := req.Write(s.conn); err != nil {
		return c.explain(err)
	}
	// It may read ahead: the other end sends nothing more before kindBegin.
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), req)
	if err != nil {
		return c.explain(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		if err := c.refused(resp); err != nil {
			return err
		}
		return fmt.Errorf("it says %s", resp.Status)
	}
	return s.Send(kindBegin, nil)
}

// Send sends a message of a kind with v as its body.
func (s *Handover) Send(kind string, v any) error {
	return s.send(kind, v, nil)
}

// SendFiles sends open files, which stay the caller's, for TakeFiles.
func (s *Handover) SendFiles(fds []int) error {
	for len(fds) > 0 {
		n := min(len(fds), filesPerMessage)
		if err := s.send(kindFiles, nil, fds[:n]); err != nil {
			return err
		}
		fds = fds[n:]
	}
	return nil
}

// Fail sends the other end why there will be no hand-over.
func (s *Handover) Fail(why error) {
	_ = s.send(kindFailed, why.Error(), nil) // it may have gone
}

func (s *Handover) send(kind string, v any, fds []int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %q of a hand-over: %w", kind, err)
	}
	b, err := json.Marshal(message{Kind: kind, Body: body})
	if err != nil {
		return fmt.Errorf("writing %q of a hand-over: %w", kind, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("writing %q of a hand-over: %d bytes are too many", kind, len(b))
	}
	b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	err = s.conn.SetWriteDeadline(time.Now().Add(takeoverTimeout))
	if err == nil {
		var n int
		if n, _, err = s.conn.WriteMsgUnix(b, rights, nil); err == nil && n < len(b) {
			_, err = s.conn.Write(b[n:])
		}
	}
	if err != nil {
		return fmt.Errorf("sending %q of a hand-over: %w", kind, err)
	}
	return nil
}

// Receive waits for a message, which must be of that kind, and reads its body into
// v unless that is nil. What the other end sent by Fail is an error.
func (s *Handover) Receive(kind string, v any) error {
	m, err := s.receive()
	if err != nil {
		return fmt.Errorf("waiting for %q of a hand-over: %w", kind, err)
	}
	if m.Kind == kindFailed && kind != kindFailed {
		var why string
		if json.Unmarshal(m.Body, &why) != nil {
			why = "it does not say why"
		}
		return fmt.Errorf("the other daemon gave up: %s", why)
	}
	if m.Kind != kind {
		return fmt.Errorf("waiting for %q of a hand-over: got %q", kind, m.Kind)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("reading %q of a hand-over: %w", kind, err)
	}
	return nil
}

func (s *Handover) receive() (m message, err error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(takeoverTimeout)); err != nil {
		return m, err
	}
	var length [4]byte
	if _, err := io.ReadFull(reader{s}, length[:]); err != nil {
		return m, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxMessage {
		return m, fmt.Errorf("%d bytes are too many", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(reader{s}, b); err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

// reader keeps the files that come with what is read.
type reader struct{ *Handover }

// Read implements io.Reader.
func (s reader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*filesPerMessage))
	n, size, flags, _, err := s.conn.ReadMsgUnix(p, oob)
	if size > 0 {
		messages, perr := unix.ParseSocketControlMessage(oob[:size])
		if perr != nil {
			return n, perr
		}
		for i := range messages {
			if fds, perr := unix.ParseUnixRights(&messages[i]); perr == nil {
				s.files = append(s.files, fds...)
			}
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return n, errors.New("open files were lost on the way: the bound of open files is too low (LimitNOFILE=, ulimit -n)")
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

// TakeFiles returns the next n files that SendFiles of the other end sent, which
// are the caller's from then on.
func (s *Handover) TakeFiles(n int) ([]int, error) {
	for len(s.files) < n {
		if err := s.Receive(kindFiles, nil); err != nil {
			return nil, err
		}
	}
	fds := s.files[:n:n]
	s.files = s.files[n:]
	return fds, nil
}

// Cut ends the connection, also for a caller that waits for the other end. It may be called from
// any goroutine; Close is still to be called.
func (s *Handover) Cut() { _ = s.conn.Close() }

// KeepOpen has the connection outlive the context of TakeOver. It reports false when
// that has ended.
func (s *Handover) KeepOpen() bool { return s.uncut() }

// Close ends the connection and closes the files that were not taken.
func (s *Handover) Close() error {
	if s.uncut != nil {
		s.uncut()
	}
	for _, fd := range s.files {
		unix.Close(fd)
	}
	s.files = nil
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
