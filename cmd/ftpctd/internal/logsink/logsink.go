// Package logsink keeps logging from ever waiting for whoever reads the log.
package logsink

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// capacity bounds the bytes of each of the two buffers: what waits, and what is
// being written. It holds about a thousand lines.
const capacity = 256 << 10

// A Sink is an io.Writer that does not wait: a goroutine of its own writes what
// it was given. Lines that do not fit because the reader of the log is too slow,
// or that cannot be written, are counted. As soon as writing works again, a
// report of their number takes their place.
//
// The goroutine may block in a write for as long as the process lives: a Sink
// leaves the file description in blocking mode, because other processes may
// share it. Nothing else ever waits for that goroutine, apart from Close, whose
// time is bounded. Methods are safe for concurrent use.
type Sink struct {
	w      io.Writer
	report func(lines uint64) error

	mu      sync.Mutex
	pending []byte // whole lines, which wait
	dropped uint64 // lines that came behind pending and did not fit
	closed  bool

	wake chan struct{} // holds one token while there may be work
	done chan struct{} // closed when the goroutine has ended

	// Used only by the goroutine.
	lost uint64 // lines ahead of the next chunk that were not written
	torn bool   // the last write ended inside a line
}

// New returns a Sink that writes to w. report writes one line to w that says how
// many lines are missing at this place of the log; it is never called with zero,
// and what it could not write is reported again later.
func New(w io.Writer, report func(lines uint64) error) *Sink {
	s := &Sink{w: w, report: report, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write takes one or more whole lines. It never waits and never fails: lines that
// do not fit, or that come after Close, are dropped.
func (s *Sink) Write(lines []byte) (int, error) {
	s.mu.Lock()
	// Once lines are missing, the next ones are behind the gap: they have to wait
	// until the goroutine has taken note of it.
	if s.closed || s.dropped > 0 || len(s.pending)+len(lines) > capacity {
		s.dropped += count(lines)
	} else {
		s.pending = append(s.pending, lines...)
	}
	s.mu.Unlock()
	s.signal()
	return len(lines), nil
}

// Close writes what waits, for no longer than a time, and reports whether all of
// it was written. Writing may go on afterwards if it did not end in time.
func (s *Sink) Close(limit time.Duration) (flushed bool) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-s.done:
		return true
	case <-timeout.C:
		return false
	}
}

func (s *Sink) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// run writes until the sink is closed and empty.
func (s *Sink) run() {
	defer close(s.done)
	var chunk []byte
	for {
		var dropped uint64
		var closed bool
		chunk, dropped, closed = s.take(chunk)
		switch {
		case len(chunk) > 0 || dropped > 0:
			s.write(chunk, dropped)
		case closed:
			return
		default:
			<-s.wake
		}
	}
}

// take returns what waits, and how many lines are missing behind it. The buffer
// of the chunk before takes its place.
func (s *Sink) take(used []byte) (chunk []byte, dropped uint64, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunk, dropped = s.pending, s.dropped
	s.pending, s.dropped = used[:0], 0
	return chunk, dropped, s.closed
}

// write writes a chunk, behind which lines are missing, with the reports in
// their places.
func (s *Sink) write(chunk []byte, dropped uint64) {
	if !s.mend() {
		s.lost += count(chunk) + dropped
		return
	}
	n, err := s.w.Write(chunk)
	n = max(n, 0)
	s.torn = n > 0 && chunk[n-1] != '\n'
	s.lost = count(chunk[n:]) + dropped
	if err == nil {
		s.mend()
	}
}

// mend ends a line that was written only in part, reports the lines that were
// lost, and reports whether that works.
func (s *Sink) mend() bool {
	if s.torn {
		if _, err := s.w.Write([]byte{'\n'}); err != nil {
			return false
		}
		s.torn = false
	}
	if s.lost > 0 {
		if err := s.report(s.lost); err != nil {
			return false
		}
		s.lost = 0
	}
	return true
}

// count returns the number of lines, which end with a newline each.
func count(lines []byte) uint64 { return uint64(bytes.Count(lines, []byte{'\n'})) }
