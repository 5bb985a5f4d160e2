package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/encap"
)

// clientTimeout bounds a whole request: a forwarding table of a million entries
// takes a few seconds.
const clientTimeout = time.Minute

// ErrNoDaemon says that no process listens on a socket.
var ErrNoDaemon = errors.New("no overtap daemon answers")

// Client asks the daemon behind one socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the daemon at the socket. It connects with each
// request.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: http.Client{
		Timeout: clientTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", socket)
			},
			DisableKeepAlives: true,
		},
	}}
}

// Status says what runs.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, pathStatus, nil, &s)
	return s, err
}

// Stats returns all counters.
func (c *Client) Stats(ctx context.Context) (dataplane.Stats, error) {
	var s dataplane.Stats
	err := c.do(ctx, http.MethodGet, pathStats, nil, &s)
	return s, err
}

// FDB returns the forwarding entries of the named network, or of all for "".
func (c *Client) FDB(ctx context.Context, network string) ([]dataplane.FDBEntry, error) {
	var e []dataplane.FDBEntry
	q := url.Values{"network": {network}}
	err := c.do(ctx, http.MethodGet, pathFDB+"?"+q.Encode(), nil, &e)
	return e, err
}

// Neighbors returns the neighbours of the named network, or of all for "".
func (c *Client) Neighbors(ctx context.Context, network string) ([]dataplane.NeighborEntry, error) {
	var e []dataplane.NeighborEntry
	q := url.Values{"network": {network}}
	err := c.do(ctx, http.MethodGet, pathNeigh+"?"+q.Encode(), nil, &e)
	return e, err
}

// Reload has the daemon read its configuration again, and with dryRun only say
// what that would change.
func (c *Client) Reload(ctx context.Context, dryRun bool) (Reloaded, error) {
	var r Reloaded
	path := pathReload
	if dryRun {
		path = pathDryRun
	}
	err := c.do(ctx, http.MethodPost, path, struct{}{}, &r)
	return r, err
}

// AddFDB adds a static entry that belongs to the command line.
func (c *Client) AddFDB(ctx context.Context, e Entry) (Added, error) {
	var a Added
	err := c.do(ctx, http.MethodPost, pathFDB, e, &a)
	return a, err
}

// DeleteFDB removes an entry of the command line, or a learned one, and returns it.
func (c *Client) DeleteFDB(ctx context.Context, network string, mac encap.MAC) (Deleted, error) {
	var gone Deleted
	q := url.Values{"network": {network}, "mac": {mac.String()}}
	err := c.do(ctx, http.MethodDelete, pathFDB+"?"+q.Encode(), nil, &gone)
	return gone, err
}

// FlushFDB forgets the learned entries that m selects and returns how many.
func (c *Client) FlushFDB(ctx context.Context, m Match) (int, error) {
	var f flushed
	err := c.do(ctx, http.MethodPost, pathFlush, m, &f)
	return f.Flushed, err
}

// do sends in, when it is not nil, and reads the answer into out, when it is
// not nil. What the daemon refuses is an error with the daemon's words.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://overtap"+path, body)
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if err := c.refused(resp); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("reading the answer from %s: %w", c.socket, err)
	}
	return nil
}

// refused is the daemon's error, nil when it did what was asked.
func (c *Client) refused(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f); err != nil || f.Error == "" {
		return fmt.Errorf("what answers at %s is no overtap daemon: it says %s", c.socket, resp.Status)
	}
	return errors.New(f.Error)
}

// mayNotOpen says what to do about a socket that is another user's.
func mayNotOpen(socket string) error {
	return fmt.Errorf("may not open %s: run the command as root", socket)
}

// explain says what to do about a daemon that does not answer.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w at %s: start one with `overtap run --config FILE`, or name its socket with --socket", ErrNoDaemon, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return mayNotOpen(c.socket)
	}
	return fmt.Errorf("asking the daemon at %s: %w", c.socket, err)
}
