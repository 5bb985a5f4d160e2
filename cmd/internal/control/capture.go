package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"overtap/cmd/internal/filter"
	"overtap/dataplane"
)

// CaptureRequest says which frames on the path are wanted; what is absent means
// all.
type CaptureRequest struct {
	Network string            `json:"network,omitempty"`
	Points  []dataplane.Point `json:"points,omitempty"`
	// SnapLen is how many bytes of each frame are wanted; 0 = all.
	SnapLen int `json:"snaplen,omitempty"`
	// Filter is an expression of package filter.
	Filter string `json:"filter,omitempty"`
}

const (
	// captureStall is how long a client may not read before it is cut off.
	captureStall = 5 * time.Second
	// captureChunk is about how much is written at once.
	captureChunk = 256 << 10
	// filterBytes of a frame are looked at by the filter, however short it is
	// wanted: all headers.
	filterBytes = 256
)

// handleCapture streams what is seen on the path.
func handleCapture(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathCapture, func(w http.ResponseWriter, r *http.Request) {
		var want CaptureRequest
		if !request(w, r, &want) {
			return
		}
		matching, err := filter.Parse(want.Filter)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		ctl := http.NewResponseController(w)
		if err := ctl.SetReadDeadline(time.Time{}); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("waiting for the client: %w", err))
			return
		}
		s := &captureStream{w: w, ctl: ctl, matching: matching, snap: want.SnapLen}
		if err := d.Capture(r.Context(), want.spec(), s.emit); err != nil && !s.begun {
			refuse(w, http.StatusBadRequest, err)
		}
	})
}

// Check is an error when the filter is none, without asking a daemon.
func (c *CaptureRequest) Check() error {
	_, err := filter.Parse(c.Filter)
	return err
}

// spec is what of the request the path decides.
func (c *CaptureRequest) spec() dataplane.MirrorSpec {
	s := dataplane.MirrorSpec{Network: c.Network, SnapLen: c.SnapLen}
	if c.SnapLen > 0 {
		s.SnapLen = max(c.SnapLen, filterBytes)
	}
	for _, p := range c.Points {
		s.Points = s.Points.With(p)
	}
	return s
}

// captureStream writes the records that match to a client.
type captureStream struct {
	w        http.ResponseWriter
	ctl      *http.ResponseController
	matching *filter.Filter
	snap     int
	begun    bool
	b        []byte
}

// emit writes what there is. Its first call shows the client that it is served.
func (s *captureStream) emit(records []dataplane.Record, lost uint64) error {
	s.b = s.b[:0]
	if lost > 0 {
		s.b = appendLost(s.b, lost)
	}
	for i := range records {
		r := &records[i]
		if !s.matching.Match(r) {
			continue
		}
		if s.snap > 0 && len(r.Frame) > s.snap {
			r.Frame = r.Frame[:s.snap]
		}
		if s.b = appendRecord(s.b, r); len(s.b) > captureChunk {
			if err := s.write(); err != nil {
				return err
			}
			s.b = s.b[:0]
		}
	}
	if s.begun && len(s.b) == 0 {
		return nil
	}
	return s.write()
}

func (s *captureStream) write() error {
	if !s.begun {
		s.w.Header().Set("Content-Type", "application/octet-stream")
		s.begun = true
	}
	if err := s.ctl.SetWriteDeadline(time.Now().Add(captureStall)); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	if _, err := s.w.Write(s.b); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	if err := s.ctl.Flush(); err != nil {
		return fmt.Errorf("writing to the client: %w", err)
	}
	return nil
}

// Captured is what a client of Capture is called with. Any of them may be nil.
type Captured struct {
	Ready  func() error                  // once the daemon captures
	Record func(*dataplane.Record) error // its bytes are valid during the call
	Lost   func(uint64)                  // so many frames came too fast
	Idle   func() error                  // everything that has come was given
}

// Capture calls f with what the daemon sees on the path, until ctx ends or f fails.
func (c *Client) Capture(ctx context.Context, want CaptureRequest, f Captured) error {
	body, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("writing the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://overtap"+pathCapture, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making the request: %w", err)
	}
	stream := c.http
	stream.Timeout = 0
	resp, err := stream.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return c.explain(err)
	}
	defer resp.Body.Close()
	if err := c.refused(resp); err != nil {
		return err
	}
	if f.Ready != nil {
		if err := f.Ready(); err != nil {
			return err
		}
	}
	in := bufio.NewReaderSize(resp.Body, captureChunk)
	var b []byte
	for {
		r, lost, err := readCaptured(in, &b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the daemon has ended, or has cut us off because we did not read")
		case err != nil:
			return fmt.Errorf("reading from %s: %w", c.socket, err)
		}
		switch {
		case r == nil && f.Lost != nil:
			f.Lost(lost)
		case r != nil && f.Record != nil:
			if err := f.Record(r); err != nil {
				return err
			}
		}
		if f.Idle != nil && in.Buffered() == 0 {
			if err := f.Idle(); err != nil {
				return err
			}
		}
	}
}
