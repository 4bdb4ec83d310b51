package nfq

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
)

func TestScore(t *testing.T) {
	waits := func(short bool, n int) []bool { return slices.Repeat([]bool{short}, n) }
	for _, tt := range []struct {
		name  string
		waits []bool // short or not
		polls bool   // after that
	}{
		{"at first", nil, false},
		{"after a packet in time", waits(true, 1), true},
		{"after one wait in vain", []bool{true, false}, true},
		{"after as many as two packets pay for", []bool{true, false, false}, false},
		{"two waits of three in vain", slices.Repeat([]bool{true, false, false}, 10), false},
		{"every other wait in vain", slices.Repeat([]bool{true, false}, 10), true},
		{"the score has a limit", slices.Concat(waits(true, 100), waits(false, maxScore)), false},
		{"not yet at the limit", slices.Concat(waits(true, 100), waits(false, maxScore-1)), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s score
			for _, short := range tt.waits {
				s = s.after(short)
			}
			if got := s > 0; got != tt.polls {
				t.Errorf("score %d: used: %t, want %t", s, got, tt.polls)
			}
		})
	}
}

// TestBusyPoll checks that packets pass while the loop polls, that the loop sleeps when no
// more arrive, and that closing ends it in both states.
func TestBusyPoll(t *testing.T) {
	for _, tt := range []struct {
		name   string
		asleep bool
	}{{"closed while it polls", false}, {"closed in its sleep", true}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			const poll = 10 * time.Millisecond
			q, _ := start(t, Config{BusyPoll: poll}, handler{})
			install(t)
			client, server := connect(t, "127.0.0.1")
			exchange := func() {
				write(t, client, "x")
				read(t, server, 1)
			}
			for range 20 {
				exchange()
			}
			if tt.asleep {
				time.Sleep(2 * poll) // the wait that is under way
				const quiet = 10 * poll
				before := cpuTime(t)
				time.Sleep(quiet)
				if used := cpuTime(t) - before; used > quiet/2 {
					t.Errorf("used %v of the processor in %v without a packet", used, quiet)
				}
				exchange()
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// cpuTime returns the CPU time that the process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(os.NewSyscallError("getrusage", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
