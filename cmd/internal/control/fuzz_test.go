package control

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
)

// answerer records an answer, and takes deadlines as a connection does.
type answerer struct{ *httptest.ResponseRecorder }

func (answerer) SetReadDeadline(time.Time) error  { return nil }
func (answerer) SetWriteDeadline(time.Time) error { return nil }

var fuzzMethods = []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut, http.MethodHead, "X"}

// FuzzRequests wants any request to be answered by JSON, and one that is refused to
// ask nothing of the daemon and to be answered with the reason.
func FuzzRequests(f *testing.F) {
	for _, path := range []string{pathStatus, pathStats, pathFDB, pathFlush, pathNeigh, pathAttach, pathDetach, pathReload, pathWatch, "/", "/v1/../v1/fdb"} {
		for i := range fuzzMethods {
			f.Add(byte(i), path, "network=blue&mac=02:42:0a:00:01:04", []byte(`{"network":"blue","mac":"02:42:0a:00:01:04","peer":"192.0.2.2"}`))
		}
		f.Add(byte(1), path, "network=red", []byte(`{"network":"blue","target":"web","addresses":["198.51.100.2/24"],"namespace_handed_over":true}`))
		f.Add(byte(1), path, "mac=%zz", []byte(`{"peer":7} {}`))
	}
	f.Fuzz(func(t *testing.T, method byte, path, query string, body []byte) {
		d := &fake{entries: []dataplane.FDBEntry{{Network: "blue"}}, ended: make(chan error, 1)}
		ctx, cancel := context.WithCancel(withConn(t.Context(), &handingConn{}))
		cancel() // the client has gone: a stream ends at once
		w := answerer{httptest.NewRecorder()}
		r := (&http.Request{
			Method: fuzzMethods[int(method)%len(fuzzMethods)], URL: &url.URL{Path: path, RawQuery: query}, Host: "overtap",
			Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)),
		}).WithContext(ctx)
		handler(d).ServeHTTP(w, r)
		text, asked := w.Body.Bytes(), d.added != Entry{} || d.deleted != 0 || d.reloads > 0
		switch w.Code {
		case http.StatusOK:
			if path != pathWatch && r.Method != http.MethodHead && !json.Valid(text) {
				t.Errorf("%s %s: %q", r.Method, path, text)
			}
		case http.StatusBadRequest, http.StatusNotFound:
			var why failure
			if err := json.Unmarshal(text, &why); err != nil || why.Error == "" || asked {
				t.Errorf("%s %s: %q (%v); the daemon was asked: %t", r.Method, path, text, err, asked)
			}
		case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect: // a path that is not clean
			if asked {
				t.Errorf("%s %s: the daemon was asked", r.Method, path)
			}
		default:
			t.Errorf("%s %s: status %d", r.Method, path, w.Code)
		}
	})
}

// FuzzHandOver hands over any number of files with any pieces of a stream: none but
// a few are kept, the bytes arrive whole, and no file outlives its connection.
func FuzzHandOver(f *testing.F) {
	f.Add([]byte{1, 4, 0, 9})
	f.Add([]byte{7, 1, 7, 1, 7, 1, 0, 200})
	f.Add([]byte{0x83, 20, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64 {
			return
		}
		near, far := pair(t)
		defer near.Close()
		c := &handingConn{UnixConn: far}
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		buf, sent, got := make([]byte, 512), 0, 0
		for ; len(b) >= 2; b = b[2:] {
			files, size := int(b[0]&7), 1+int(b[1])
			var oob []byte
			if files > 0 {
				fds := make([]int, files)
				for i := range fds {
					fds[i] = int(out.Fd())
				}
				oob = unix.UnixRights(fds...)
			}
			if _, _, err := near.WriteMsgUnix(buf[:size], oob, nil); err != nil {
				t.Fatal(err)
			}
			for sent += size; got < sent; {
				n, err := c.Read(buf[:1+int(b[0])])
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
			if len(c.files) > maxHanded {
				t.Fatalf("%d files are kept", len(c.files))
			}
			if b[0]&0x80 != 0 {
				if file, err := c.take(); err == nil {
					file.Close()
				}
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		// Once the other end of the pipe is closed there is nothing to wait for.
		out.Close()
		if err := in.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Read(buf); err != io.EOF {
			t.Errorf("a file that was handed over is still open: %v", err)
		}
	})
}

// pair is two ends of a stream.
func pair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}
