package logsink

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// reader stands for a file and whoever reads it. Each write takes a step, which
// says how many bytes are taken and with which error.
type reader struct {
	entered chan struct{} // a write has begun
	steps   chan step     // nil: every write works

	mu   sync.Mutex
	text strings.Builder
}

type step struct {
	bytes int // that are taken, -1 for all
	err   error
}

var errGone = errors.New("gone")

func (r *reader) Write(b []byte) (int, error) {
	var s step
	if r.steps == nil {
		s.bytes = -1
	} else {
		r.entered <- struct{}{}
		s = <-r.steps
	}
	if s.bytes < 0 || s.bytes > len(b) {
		s.bytes = len(b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.Write(b[:s.bytes])
	return s.bytes, s.err
}

func (r *reader) report(lines uint64) error {
	_, err := fmt.Fprintf(r, "%d lost\n", lines)
	return err
}

func (r *reader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// step lets the write that is next begin and end.
func (r *reader) step(s step) {
	<-r.entered
	r.steps <- s
}

func stepped() *reader {
	return &reader{entered: make(chan struct{}), steps: make(chan step)}
}

func put(s *Sink, text string) { _, _ = s.Write([]byte(text)) }

// TestLongLine makes sure that a line which never fits is reported, and that those
// behind it are written.
func TestLongLine(t *testing.T) {
	r := stepped()
	s := New(r, r.report)
	put(s, strings.Repeat("x", capacity)+"\n")
	r.step(step{bytes: -1}) // of no line
	r.step(step{bytes: -1}) // the report
	put(s, "next\n")
	r.step(step{bytes: -1})
	if !s.Close(forever) {
		t.Error("not flushed")
	}
	if diff := cmp.Diff("1 lost\nnext\n", r.String()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// forever is a bound that is not reached.
const forever = time.Minute

func TestWrite(t *testing.T) {
	r := &reader{}
	s := New(r, r.report)
	var want strings.Builder
	for i := range 1000 {
		put(s, fmt.Sprintln("line", i))
		fmt.Fprintln(&want, "line", i)
	}
	if !s.Close(forever) {
		t.Error("not flushed")
	}
	if diff := cmp.Diff(want.String(), r.String()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	put(s, "after Close\n")
	if !s.Close(forever) || strings.Contains(r.String(), "after") {
		t.Error("a line after Close was written")
	}
}

// TestReaderBack has a reader that does not read for a while: writers go on, the
// memory is bounded, and the report stands where the lines are missing.
func TestReaderBack(t *testing.T) {
	r := stepped()
	s := New(r, r.report)
	put(s, "first\n")
	<-r.entered // and does not return
	line := strings.Repeat("x", 1023) + "\n"
	const fit, extra = capacity / 1024, 100
	for range fit + extra {
		put(s, line)
	}
	put(s, "short\n") // would fit, but behind the gap
	s.mu.Lock()
	if len(s.pending) > capacity || s.dropped != extra+1 {
		t.Errorf("%d bytes wait and %d lines are dropped, want %d and %d", len(s.pending), s.dropped, capacity, extra+1)
	}
	s.mu.Unlock()

	all := step{bytes: -1}
	r.steps <- all // first
	r.step(all)    // what fits
	<-r.entered    // the report
	put(s, "last\n")
	r.steps <- all
	r.step(all)
	if !s.Close(forever) {
		t.Error("not flushed")
	}
	want := "first\n" + strings.Repeat(line, fit) + fmt.Sprintf("%d lost\n", extra+1) + "last\n"
	if diff := cmp.Diff(want, r.String()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// TestErrors has writes fail: a pipe without a reader, a full disk.
func TestErrors(t *testing.T) {
	type write struct {
		line  string // that is logged, if any
		steps []step // of the writes that follow
	}
	all, fails := step{bytes: -1}, step{err: errGone}
	for _, tt := range []struct {
		name   string
		writes []write
		want   string
	}{
		{"reader gone for good", []write{
			{"a\n", []step{fails}},
			{"b\n", []step{fails}}, // the report
			{"c\n", []step{fails}},
		}, ""},
		{"reader back", []write{
			{"a\n", []step{fails}},
			{"b\nc\n", []step{fails}},
			{"d\n", []step{all, all}},
		}, "3 lost\nd\n"},
		{"disk full inside a line", []write{
			{"a\nbcd\ne\n", []step{{bytes: 3, err: errGone}}},
			{"f\n", []step{all, all, all}}, // newline, report, line
		}, "a\nb\n2 lost\nf\n"},
		{"disk full inside a line, for a while", []write{
			{"abc\n", []step{{bytes: 1, err: errGone}}},
			{"d\n", []step{fails}},
			{"e\n", []step{all, fails}}, // the report fails
			{"f\n", []step{all, all}},
		}, "a\n3 lost\nf\n"},
		{"disk full between lines", []write{
			{"a\nb\n", []step{{bytes: 2, err: errGone}}},
			{"c\n", []step{all, all}},
		}, "a\n1 lost\nc\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := stepped()
			s := New(r, r.report)
			for _, w := range tt.writes {
				put(s, w.line)
				for _, step := range w.steps {
					r.step(step)
				}
			}
			if !s.Close(forever) {
				t.Error("not ended")
			}
			if diff := cmp.Diff(tt.want, r.String()); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCloseIsBounded has nobody read, for good.
func TestCloseIsBounded(t *testing.T) {
	r := stepped()
	s := New(r, r.report)
	put(s, "line\n")
	<-r.entered
	if s.Close(time.Millisecond) {
		t.Error("flushed, though nobody reads")
	}
	r.steps <- step{bytes: -1} // let the goroutine go
	<-s.done
}

// TestWriteAllocates makes sure that a line costs no more than a copy, whether
// it fits or not.
func TestWriteAllocates(t *testing.T) {
	r := &reader{entered: make(chan struct{}, 16), steps: make(chan step)}
	s := New(r, r.report)
	defer func() {
		close(r.steps) // no further write waits
		s.Close(forever)
	}()
	put(s, "line\n")
	<-r.entered
	line := []byte(strings.Repeat("x", 99) + "\n")
	s.pending = make([]byte, 0, capacity)
	if n := testing.AllocsPerRun(2*capacity/len(line), func() { _, _ = s.Write(line) }); n != 0 {
		t.Errorf("%v allocations a line, want 0", n)
	}
	if s.dropped == 0 {
		t.Error("every line fits: the case of one that does not is not covered")
	}
}
