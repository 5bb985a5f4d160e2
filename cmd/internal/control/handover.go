package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A container's network namespace is handed over as an open file, beside the
// first bytes of the request (SCM_RIGHTS, unix(7)): so neither end needs to see
// the other's files or processes by the same names, or to look into them.

// maxHanded bounds the files of one connection.
const maxHanded = 4

// Checked returns a listener that takes connections of root and of the daemon's
// own user alone, whatever the socket's mode came to be, and the files that they
// hand over.
//
// Some descriptors are kept in reserve. While the process has no other left, each
// connection gets a few of them, so that the daemon can be asked what is wrong.
func Checked(l net.Listener) *CheckedListener {
	c := &CheckedListener{Listener: l}
	c.reserve.fill()
	return c
}

// CheckedListener is what Checked returns.
type CheckedListener struct {
	net.Listener
	reserve reserve
}

// Accept implements net.Listener.
func (l *CheckedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, unix.EMFILE) && l.reserve.spend() {
			continue
		}
		if err != nil {
			return nil, err
		}
		u, ok := c.(*net.UnixConn)
		if ok && trusted(u) {
			return &handingConn{UnixConn: u, closes: l.reserve.fill}, nil
		}
		c.Close()
		l.reserve.fill()
	}
}

// release closes the reserve.
func (l *CheckedListener) release() {
	for l.reserve.spend() {
	}
}

const (
	// reserved is how many descriptors are kept for connections of control, and
	// spentEach how many of them one gets: itself, and what answering it opens.
	reserved  = 32
	spentEach = 4
)

// reserve holds descriptors that are of no use but to be closed.
type reserve struct {
	mu  sync.Mutex
	fds []int
}

// fill opens what the reserve lacks, as far as there are descriptors.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.fds) < reserved {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return
		}
		r.fds = append(r.fds, fd)
	}
}

// spend closes a connection's share, and reports false when there is none left.
func (r *reserve) spend() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(spentEach, len(r.fds))
	for _, fd := range r.fds[len(r.fds)-n:] {
		unix.Close(fd)
	}
	r.fds = r.fds[:len(r.fds)-n]
	return n > 0
}

// trusted reports whether root, or the daemon's user, is at the other end.
func trusted(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return ok && err == nil
}

// handingConn keeps the files that come with what is read, until a handler takes
// them or the connection ends.
type handingConn struct {
	*net.UnixConn
	closes func() // called once it is closed; nil = nothing

	mu     sync.Mutex
	files  []*os.File
	closed bool
}

// Read implements net.Conn.
func (c *handingConn) Read(p []byte) (int, error) {
	var oob [128]byte
	n, size, _, _, err := c.ReadMsgUnix(p, oob[:])
	if size > 0 {
		c.keep(oob[:size])
	}
	return max(n, 0), err // a deadline leaves the -1 of the system call
}

// keep takes the files out of a control message. Those beyond the bound are
// closed.
func (c *handingConn) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if c.closed || len(c.files) == maxHanded {
				unix.Close(fd)
				continue
			}
			c.files = append(c.files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
}

// take returns the first file that was handed over, which is the caller's from
// then on.
func (c *handingConn) take() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.files) == 0 {
		return nil, errors.New("no namespace was handed over with the request")
	}
	f := c.files[0]
	c.files = c.files[1:]
	return f, nil
}

// Close implements net.Conn.
func (c *handingConn) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
	c.mu.Unlock()
	err := c.UnixConn.Close()
	if c.closes != nil {
		c.closes()
	}
	return err
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

// withConn notes the connection of a request.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// handedOver returns the file that came with a request.
func handedOver(ctx context.Context) (*os.File, error) {
	c, ok := ctx.Value(connKey{}).(*handingConn)
	if !ok {
		return nil, errors.New("nothing can be handed over by this connection")
	}
	return c.take()
}

// handing is a client whose first bytes carry the file f.
func (c *Client) handing(f *os.File) *Client {
	if f == nil {
		return c
	}
	with := *c
	with.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", c.socket)
			if err != nil {
				return nil, err
			}
			return &givingConn{UnixConn: conn.(*net.UnixConn), file: f}, nil
		},
		DisableKeepAlives: true,
	}
	return &with
}

// givingConn hands a file over with the first bytes that are written.
type givingConn struct {
	*net.UnixConn
	file *os.File // nil = done
}

// Write implements net.Conn.
func (c *givingConn) Write(p []byte) (int, error) {
	if c.file == nil || len(p) == 0 {
		return c.UnixConn.Write(p)
	}
	f := c.file
	c.file = nil
	n, _, err := c.WriteMsgUnix(p, unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n < len(p) {
		var more int
		more, err = c.UnixConn.Write(p[n:])
		n += more
	}
	return n, err
}
