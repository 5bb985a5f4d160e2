package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"overtap/dataplane"
)

// watched is one line of the stream: a change, or a number of lost ones.
type watched struct {
	*dataplane.FDBChange
	Lost uint64 `json:"lost,omitempty"`
}

// handleWatch streams changes, a line each. A client that does not read what it
// asked for is cut off.
func handleWatch(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("GET "+pathWatch, func(w http.ResponseWriter, r *http.Request) {
		ctl := http.NewResponseController(w)
		if err := ctl.SetReadDeadline(time.Time{}); err != nil {
			answer(w, nil, fmt.Errorf("waiting for the client: %w", err))
			return
		}
		begun := false
		err := d.WatchFDB(r.Context(), r.URL.Query().Get("network"), func(changes []dataplane.FDBChange, lost uint64) error {
			if !begun {
				w.Header().Set("Content-Type", "application/x-ndjson")
				begun = true
			}
			if err := ctl.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return fmt.Errorf("writing to the client: %w", err)
			}
			enc := json.NewEncoder(w)
			if lost > 0 {
				if err := enc.Encode(watched{Lost: lost}); err != nil {
					return fmt.Errorf("writing to the client: %w", err)
				}
			}
			for i := range changes {
				if err := enc.Encode(watched{FDBChange: &changes[i]}); err != nil {
					return fmt.Errorf("writing to the client: %w", err)
				}
			}
			return ctl.Flush()
		})
		if err != nil && !begun {
			refuse(w, http.StatusBadRequest, err)
		}
	})
}

// WatchFDB calls f with each change of the named network's forwarding table, or
// of all for "", or with a number of changes that were lost, until ctx ends or f
// fails. ready is called once the daemon watches.
func (c *Client) WatchFDB(ctx context.Context, network string, ready func(), f func(change *dataplane.FDBChange, lost uint64) error) error {
	q := url.Values{"network": {network}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://overtap"+pathWatch+"?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	stream := c.http
	stream.Timeout = 0
	resp, err := stream.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if err := c.refused(resp); err != nil {
		return err
	}
	ready()
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var line watched
		err := dec.Decode(&line)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the daemon has ended")
		case err != nil:
			return fmt.Errorf("reading from %s: %w", c.socket, err)
		}
		if err := f(line.FDBChange, line.Lost); err != nil {
			return err
		}
	}
}
