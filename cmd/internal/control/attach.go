package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/attach"
)

// A target's network namespace is handed over as an open file of the client's,
// which the daemon opens anew by way of /proc/PID/fd: the kernel tells it the
// client's PID as the daemon's own PID namespace numbers it (SO_PEERCRED). So
// neither needs to see the other's files or processes by the same names.

// attachRequest and detachRequest are what is asked, and the namespace's file.
type (
	attachRequest struct {
		attach.Request
		Namespace int `json:"namespace_fd"`
	}
	detachRequest struct {
		attach.Selector
		Namespace *int `json:"namespace_fd,omitempty"` // nil = cannot be resolved any more
	}
)

// Attach joins the namespace ns, open until it returns, to a network.
func (c *Client) Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	var m attach.Made
	err := c.do(ctx, http.MethodPost, pathAttach, attachRequest{r, int(ns.Fd())}, &m)
	return m, err
}

// Detach removes an attachment of the namespace ns, open until it returns, or
// when it is nil, one that was made under the target's name.
func (c *Client) Detach(ctx context.Context, ns *os.File, s attach.Selector) (attach.Attachment, error) {
	r := detachRequest{Selector: s}
	if ns != nil {
		fd := int(ns.Fd())
		r.Namespace = &fd
	}
	var a attach.Attachment
	err := c.do(ctx, http.MethodPost, pathDetach, r, &a)
	return a, err
}

// handleAttach routes the requests about attachments to d.
func handleAttach(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathAttach, func(w http.ResponseWriter, r *http.Request) {
		var in attachRequest
		if !request(w, r, &in) {
			return
		}
		// Else the end of the time to send a request ends its context too, as if
		// the client had gone (net/http's connReader.backgroundRead).
		if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
			answer(w, nil, fmt.Errorf("waiting for the client: %w", err))
			return
		}
		ns, err := clientFile(r.Context(), in.Namespace)
		if err != nil {
			answer(w, nil, err)
			return
		}
		defer ns.Close()
		m, err := d.Attach(r.Context(), ns, in.Request)
		m.Addresses, m.Gateways = notNil(m.Addresses), notNil(m.Gateways)
		answer(w, m, err)
	})
	mux.HandleFunc("POST "+pathDetach, func(w http.ResponseWriter, r *http.Request) {
		var in detachRequest
		if !request(w, r, &in) {
			return
		}
		var ns *os.File
		if in.Namespace != nil {
			var err error
			if ns, err = clientFile(r.Context(), *in.Namespace); err != nil {
				answer(w, nil, err)
				return
			}
			defer ns.Close()
		}
		a, err := d.Detach(ns, in.Selector)
		a.Addresses = notNil(a.Addresses)
		answer(w, a, err)
	})
}

// peerKey is the key of a connection's client PID in its context.
type peerKey struct{}

// withPeer notes the PID of the client at the other end of c.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil || pid == 0 {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, pid)
}

// clientFile opens anew what the client of a request has open as fd.
func clientFile(ctx context.Context, fd int) (*os.File, error) {
	pid, ok := ctx.Value(peerKey{}).(int)
	if !ok {
		return nil, errors.New("the daemon cannot see the process that asks: " +
			"run the command in the PID namespace of the daemon, or in one inside it")
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	// Without O_NONBLOCK the open of a FIFO would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the namespace that was handed over: %w", err)
	}
	return f, nil
}
