package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
)

// Capture shows frames of 1000 bytes without end, each numbered by its VNI.
func (f *fake) Capture(ctx context.Context, s dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error {
	if s.Network == "green" {
		return errors.New("there is no such network")
	}
	f.mu.Lock()
	f.mirror = s
	f.mu.Unlock()
	err := emit(nil, 0)
	for i := 0; err == nil && ctx.Err() == nil; i++ {
		r := dataplane.Record{Time: time.Unix(1, int64(i)), Network: "blue", Kind: dataplane.KindVXLAN, VNI: 7,
			Frame: bytes.Repeat([]byte{byte(i)}, 1000), Length: 1000 + i%2}
		err = emit([]dataplane.Record{r}, uint64(i%3))
		if f.slow > 0 {
			time.Sleep(f.slow)
		}
	}
	f.ended <- err
	return err
}

// asked returns what the path was asked for last. The handlers of requests run
// beside the test.
func (f *fake) asked() dataplane.MirrorSpec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mirror
}

func TestRecordsTravel(t *testing.T) {
	records := []dataplane.Record{
		{Time: time.Unix(0, 1700000000123456789), Network: "blue", Kind: dataplane.KindVXLAN, VNI: 1<<24 - 1, Point: dataplane.PointWireOut,
			Peer: netip.MustParseAddr("192.0.2.2"), Segments: 46, SegmentSize: 1398, Unfinished: true, Outer: []byte("outer"), Frame: []byte("frame"), Length: 64000},
		{Time: time.Unix(0, 1), Kind: dataplane.KindIPIP, Point: dataplane.PointDropped, Drop: dataplane.DropTooBig, Direction: dataplane.Inbound,
			Peer: netip.MustParseAddr("2001:db8::1"), Answer: true, Frame: []byte{}},
	}
	var b []byte
	for i := range records {
		b = appendLost(appendRecord(b, &records[i]), uint64(i))
	}
	in, buf := bufio.NewReader(bytes.NewReader(b)), []byte(nil)
	for i := range records {
		r, _, err := readCaptured(in, &buf)
		if err != nil || !reflect.DeepEqual(*r, records[i]) {
			t.Errorf("%+v came as %+v, %v", records[i], r, err)
		}
		if r, lost, err := readCaptured(in, &buf); r != nil || lost != uint64(i) || err != nil {
			t.Errorf("lost %d came as %v, %d, %v", i, r, lost, err)
		}
	}
	if _, _, err := readCaptured(in, &buf); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last: %v", err)
	}
}

func FuzzReadCaptured(f *testing.F) {
	f.Add(appendLost(nil, 5))
	f.Add(appendRecord(nil, &dataplane.Record{Network: "blue", Peer: netip.MustParseAddr("192.0.2.2"), Outer: []byte{1}, Frame: []byte{2}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, buf := bufio.NewReader(bytes.NewReader(b)), []byte(nil)
		for range 10 {
			if _, _, err := readCaptured(in, &buf); err != nil {
				return
			}
		}
	})
}

func TestCapture(t *testing.T) {
	d := &fake{ended: make(chan error, 1), slow: time.Millisecond}
	socket, _ := serve(t, d)
	ready, count, lost, idle := false, 0, uint64(0), 0
	enough := errors.New("enough")
	err := NewClient(socket).Capture(t.Context(), CaptureRequest{
		Network: "blue", Points: []dataplane.Point{dataplane.PointTapIn, dataplane.PointDropped}, SnapLen: 100, Filter: "greater 1001",
	}, Captured{
		Ready: func() error { ready = true; return nil },
		Record: func(r *dataplane.Record) error {
			// The filter takes every other; of each only the start travels.
			if want := byte(2*count + 1); len(r.Frame) != 100 || r.Frame[99] != want || r.Length != 1001 {
				t.Errorf("frame %d is %d bytes of %d, % x", count, len(r.Frame), r.Length, r.Frame[:4])
			}
			if count++; count == 20 {
				return enough
			}
			return nil
		},
		Lost: func(n uint64) { lost += n },
		Idle: func() error { idle++; return nil },
	})
	if !errors.Is(err, enough) || !ready || lost < 38 || idle == 0 {
		t.Errorf("ready=%t, %d lost, %d times idle: %v", ready, lost, idle, err)
	}
	select {
	case <-d.ended:
	case <-time.After(5 * time.Second):
		t.Error("the daemon goes on without a client")
	}
	if want, got := (dataplane.MirrorSpec{Network: "blue", SnapLen: filterBytes,
		Points: dataplane.PointSet(0).With(dataplane.PointTapIn).With(dataplane.PointDropped)}), d.asked(); got != want {
		t.Errorf("the path was asked for %+v, want %+v", got, want)
	}
	for _, c := range []struct {
		request CaptureRequest
		want    string
	}{
		{CaptureRequest{Network: "green"}, "no such network"},
		{CaptureRequest{Filter: "tcp and foo"}, `filter: column 9: "foo"`},
	} {
		if err := NewClient(socket).Capture(t.Context(), c.request, Captured{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.request, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := NewClient(socket).Capture(ctx, CaptureRequest{}, Captured{}); err != nil {
		t.Errorf("given up: %v", err)
	}
}

// A client that never reads is cut off, and the capture ends.
func TestCaptureNeverRead(t *testing.T) {
	d := &fake{ended: make(chan error, 1)}
	socket, _ := serve(t, d)
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(http.MethodPost + " " + pathCapture + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-d.ended:
		if err == nil {
			t.Error("the capture ended without an error")
		}
	case <-time.After(captureStall + 20*time.Second):
		t.Error("the capture goes on")
	}
}
