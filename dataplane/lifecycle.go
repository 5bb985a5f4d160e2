package dataplane

import (
	"errors"
	"time"
)

// Start has the path begin, of an engine that was made with Hold.
func (e *Engine) Start() {
	e.starting.Do(func() {
		e.running.Store(true)
		e.mu.Lock()
		if err := e.acceptZeroChecksums(); err != nil {
			e.notify(Event{Kind: ZeroChecksumsFailed, Err: err})
		}
		e.mu.Unlock()
		for _, loop := range e.launch {
			go loop()
		}
	})
}

// Alive reports whether every thread of the path comes round within a second: a
// thread that hangs in a batch does not. An engine that is closed has none.
func (e *Engine) Alive() bool {
	target := e.epoch.Add(1)
	deadline := time.Now().Add(time.Second)
	select {
	case <-e.stop:
		return true // it is being closed
	default:
	}
	for _, t := range e.threads {
		t.Wake()
	}
	for _, t := range e.threads {
		for t.epoch.Load() < target {
			select {
			case <-e.stop:
				return true
			default:
			}
			if time.Now().After(deadline) {
				return false
			}
			time.Sleep(time.Millisecond)
		}
	}
	return true
}

// quiesce returns when no thread uses anything that was unpublished before.
func (e *Engine) quiesce() {
	if !e.running.Load() {
		return
	}
	target := e.epoch.Add(1)
	for _, t := range e.threads {
		t.Wake()
		for t.epoch.Load() < target {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// Close stops the threads and closes every TAP and socket; the TAPs vanish, but
// for those of another engine that this one was to inherit or adopt and never was
// made to Persist.
func (e *Engine) Close() error { return e.end(func() {}, (*netBase).close) }

// Leave is Close by which the devices stay, for another engine that has inherited
// all of it. It calls stopped when no frame moves any more.
func (e *Engine) Leave(stopped func()) error { return e.end(stopped, (*netBase).leave) }

func (e *Engine) end(stopped func(), part func(*netBase) error) error {
	e.stopping.Do(func() { close(e.stop) })
	e.ticking.Wait() // the tick looks at what shut takes away
	return e.shut(stopped, part)
}

func (e *Engine) shut(stopped func(), part func(*netBase) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	for _, t := range e.threads {
		t.stop.Store(true)
		t.Wake()
	}
	for _, t := range e.threads {
		if e.running.Load() {
			<-t.done
		}
	}
	stopped()
	for _, t := range e.threads {
		t.Close()
	}
	var errs []error
	for _, m := range e.snapshot.Load().members {
		errs = append(errs, part(m.base()))
	}
	for _, wires := range e.conns {
		for _, w := range wires {
			errs = append(errs, w.Close())
		}
	}
	clear(e.conns) // Stats still answers
	errs = append(errs, e.backend.Close())
	return errors.Join(errs...)
}
