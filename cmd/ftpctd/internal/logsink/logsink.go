package logsink

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// capacity is the maximum size in bytes of each of the two buffers: pending lines, and
// lines being written. It holds about a thousand lines.
const capacity = 256 << 10

// A Sink is an io.Writer that does not wait: its own goroutine writes the lines. Lines
// that do not fit because the reader of the log is too slow, and lines that cannot be
// written, are counted. As soon as writing works again, a report of their number takes
// their place.
//
// The goroutine may block in a write for as long as the process lives: a Sink leaves
// the file description in blocking mode, because other processes may share it. Only
// Close waits for that goroutine, for a bounded time. Methods are safe for concurrent
// use.
type Sink struct {
	w      io.Writer
	report func(lines uint64) error

	mu      sync.Mutex
	pending []byte // whole lines to be written
	dropped uint64 // lines after pending that did not fit
	closed  bool

	wake chan struct{} // holds one token while there may be work
	done chan struct{} // closed when the goroutine has ended

	// Used only by the goroutine.
	lost uint64 // lines before the next chunk that were not written
	torn bool   // the last write ended inside a line
}

// New returns a Sink that writes to w. report writes a line to w with the number of
// lines that are missing at this point of the log, which is never zero; if it fails, the
// number is reported later.
func New(w io.Writer, report func(lines uint64) error) *Sink {
	s := &Sink{w: w, report: report, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write accepts one or more whole lines. It never waits and never fails: lines that do
// not fit, or that arrive after Close, are dropped.
func (s *Sink) Write(lines []byte) (int, error) {
	s.mu.Lock()
	// Lines after a gap are dropped until the goroutine has recorded the gap.
	if s.closed || s.dropped > 0 || len(s.pending)+len(lines) > capacity {
		s.dropped += count(lines)
	} else {
		s.pending = append(s.pending, lines...)
	}
	s.mu.Unlock()
	s.signal()
	return len(lines), nil
}

// Close writes the pending lines and reports whether it did so within the limit. If
// not, writing continues in the background.
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
	default: // it has a token already
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

// take returns the pending lines, and the number of lines missing after them. The
// buffer of the previous chunk replaces them.
func (s *Sink) take(used []byte) (chunk []byte, dropped uint64, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunk, dropped = s.pending, s.dropped
	s.pending, s.dropped = used[:0], 0
	return chunk, dropped, s.closed
}

// write writes a chunk, after which dropped lines are missing, with a report at each
// gap.
func (s *Sink) write(chunk []byte, dropped uint64) {
	if !s.repair() {
		s.lost += count(chunk) + dropped
		return
	}
	n, err := s.w.Write(chunk)
	n = max(n, 0)
	s.torn = n > 0 && chunk[n-1] != '\n'
	s.lost = count(chunk[n:]) + dropped
	if err == nil {
		s.repair()
	}
}

// repair ends a line that was written only in part and writes the report of lost
// lines. It returns false if writing fails.
func (s *Sink) repair() bool {
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

// count returns the number of lines. Each ends with a newline.
func count(lines []byte) uint64 { return uint64(bytes.Count(lines, []byte{'\n'})) }
