package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// Bounds on what a client can hold: a request's size, and how long it may take
// to send one, to read the answer and to idle.
const (
	maxBody      = 64 << 10
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = 30 * time.Second
	// stopTimeout is what requests under way get at the daemon's end.
	stopTimeout = time.Second
)

// Serve answers requests on l until ctx ends, and then returns nil. It closes l.
func Serve(ctx context.Context, l net.Listener, d Daemon, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           handler(d),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	checked := Checked(l)
	defer checked.release()
	return ServeHTTP(ctx, srv, checked)
}

// ServeHTTP runs srv on l until ctx ends, gives requests under way a second,
// and then cuts them off. A client that was connected before is answered.
func ServeHTTP(ctx context.Context, srv *http.Server, l net.Listener) error {
	var open sync.WaitGroup
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Done()
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Shutdown would close a connection that was just accepted, and not answer a
	// request that comes on it. Without it each is closed after its answer.
	_ = l.Close()
	<-failed
	srv.SetKeepAlivesEnabled(false)
	closed := make(chan struct{})
	go func() {
		open.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(stopTimeout):
		// A client that does not ask, or does not read what it asked for.
		_ = srv.Close()
	}
	return nil
}

// handler routes the requests to d.
func handler(d Daemon) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, completeStatus(d.Status()))
	})
	mux.HandleFunc("GET "+pathStats, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, completeStats(d.Stats()))
	})
	mux.HandleFunc("GET "+pathFDB, func(w http.ResponseWriter, r *http.Request) {
		entries, err := d.FDB(r.URL.Query().Get("network"))
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		replyEntries(w, entries)
	})
	mux.HandleFunc("GET "+pathNeigh, func(w http.ResponseWriter, r *http.Request) {
		entries, err := d.Neighbors(r.URL.Query().Get("network"))
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		replyEntries(w, entries)
	})
	mux.HandleFunc("POST "+pathFDB, func(w http.ResponseWriter, r *http.Request) {
		var e Entry
		if !request(w, r, &e) {
			return
		}
		added, err := d.AddFDB(e)
		answer(w, added, err)
	})
	mux.HandleFunc("DELETE "+pathFDB, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mac, err := encap.ParseMAC(q.Get("mac"))
		var gone Deleted
		if err == nil {
			gone, err = d.DeleteFDB(q.Get("network"), mac)
		}
		answer(w, gone, err)
	})
	mux.HandleFunc("POST "+pathFlush, func(w http.ResponseWriter, r *http.Request) {
		var m Match
		if !request(w, r, &m) {
			return
		}
		n, err := d.FlushFDB(m)
		answer(w, flushed{n}, err)
	})
	mux.HandleFunc("POST "+pathReload, func(w http.ResponseWriter, _ *http.Request) {
		done, err := d.Reload(false)
		answer(w, done, err)
	})
	mux.HandleFunc("POST "+pathDryRun, func(w http.ResponseWriter, _ *http.Request) {
		done, err := d.Reload(true)
		answer(w, done, err)
	})
	handlePage(mux, d)
	handleWatch(mux, d)
	handleExplain(mux, d)
	handleResolve(mux, d)
	handleCluster(mux, d)
	handleCapture(mux, d)
	handleAttach(mux, d)
	handleTakeover(mux, d)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("this daemon knows no %s %s: it is of another version than the command", r.Method, r.URL.Path))
	})
	return mux
}

// request reads a request's body into v. When it cannot, it has answered.
func request(w http.ResponseWriter, r *http.Request, v any) bool { return requestOf(w, r, v, maxBody) }

// requestOf is request for a body of another length at most.
func requestOf(w http.ResponseWriter, r *http.Request, v any, most int64) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading the request: %w", err))
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	reply(w, v)
}

// reply writes v. An error means that the client has gone, and is left at
// that.
func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// replyEntries writes what reply would, entry by entry: a table of a million
// entries is not held once more as text, and for a client that has gone the
// work ends.
func replyEntries[T any](w http.ResponseWriter, entries []T) {
	w.Header().Set("Content-Type", "application/json")
	buf := bufio.NewWriterSize(w, 32<<10)
	enc := json.NewEncoder(buf)
	between := byte('[')
	for i := range entries {
		if buf.WriteByte(between) != nil || enc.Encode(&entries[i]) != nil {
			return
		}
		between = ','
	}
	if len(entries) == 0 {
		_ = buf.WriteByte('[')
	}
	_ = buf.WriteByte(']')
	_ = buf.Flush()
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure{err.Error()})
}

// completeStats makes empty lists of absent ones, which JSON would write as
// null.
func completeStats(s dataplane.Stats) dataplane.Stats {
	s.Networks, s.Peers, s.Drops, s.Wire = notNil(s.Networks), notNil(s.Peers), notNil(s.Drops), notNil(s.Wire)
	return s
}

// completeStatus does the same for a Status.
func completeStatus(s Status) Status {
	s.Problems, s.Warnings, s.SourcePorts = notNil(s.Problems), notNil(s.Warnings), notNil(s.SourcePorts)
	s.Offloads = notNil(s.Offloads)
	s.Networks, s.Peers, s.Attachments = notNil(slices.Clone(s.Networks)), notNil(s.Peers), notNil(s.Attachments)
	for i := range s.Networks {
		n := &s.Networks[i]
		n.Addresses, n.Offloads = notNil(n.Addresses), notNil(n.Offloads)
	}
	return s
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
