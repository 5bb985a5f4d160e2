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
func Checked(l net.Listener) net.Listener { return checkedListener{l} }

type checkedListener struct{ net.Listener }

func (l checkedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		u, ok := c.(*net.UnixConn)
		if ok && trusted(u) {
			return &handingConn{UnixConn: u}, nil
		}
		c.Close()
	}
}

// trusted reports whether root, or whoever runs the daemon, is at the other end.
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

// handingConn keeps the files that come with what is read, until somebody takes
// them or the connection ends.
type handingConn struct {
	*net.UnixConn

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
	return n, err
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
	return c.UnixConn.Close()
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
