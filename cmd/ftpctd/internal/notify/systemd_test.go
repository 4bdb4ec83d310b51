package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const pid = 42

// dial makes a Systemd from an environment written as NAME=value.
func dial(t *testing.T, environment ...string) (*Systemd, error) {
	t.Helper()
	s, err := Dial(func(name string) string {
		for _, e := range environment {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value
			}
		}
		return ""
	}, pid)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

// manager listens as systemd does.
func manager(t *testing.T) (l *net.UnixConn, environment string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l, "NOTIFY_SOCKET=" + path
}

func receive(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := l.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotify(t *testing.T) {
	l, environment := manager(t)
	s, err := dial(t, environment)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		call func() error
		want string
	}{
		{"ready", func() error { return s.Ready("2 sessions") }, "READY=1\nSTATUS=2 sessions"},
		{"alive", func() error { return s.Alive("100% sessions") }, "WATCHDOG=1\nSTATUS=100% sessions"},
		{"status", func() error { return s.Status("stuck") }, "STATUS=stuck"},
		{"stopping", s.Stopping, "STOPPING=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.call(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, receive(t, l)); diff != "" {
				t.Errorf("datagram (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNobodyReads has a service manager read nothing for a while. Nothing waits for
// it, and it hears of the state as soon as it reads again.
func TestServiceManagerDoesNotRead(t *testing.T) {
	tests := []struct {
		name  string
		calls func(*Systemd) []error // while nothing is read
		want  string                 // with the watchdog's food
	}{
		{"ready", func(s *Systemd) []error {
			return []error{s.Ready("a"), s.Alive("b")}
		}, "READY=1\nWATCHDOG=1\nSTATUS=c"},
		{"ready again", func(s *Systemd) []error {
			return []error{s.Reloading(), s.Ready("a")}
		}, "READY=1\nWATCHDOG=1\nSTATUS=c"},
		{"stopping", func(s *Systemd) []error {
			return []error{s.Ready("a"), s.Stopping()}
		}, "STOPPING=1\nWATCHDOG=1\nSTATUS=c"},
		{"alive", func(s *Systemd) []error {
			return []error{s.Alive("a"), s.Status("b")}
		}, "WATCHDOG=1\nSTATUS=c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, environment := manager(t)
			s, err := dial(t, environment)
			if err != nil {
				t.Fatal(err)
			}
			unread := 0
			for ; err == nil; unread++ {
				err = s.Status("full")
			}
			for i, err := range append([]error{err}, tt.calls(s)...) {
				if !errors.Is(err, unix.EAGAIN) {
					t.Errorf("call %d: error %v, want %v", i, err, unix.EAGAIN)
				}
			}
			for range unread - 1 {
				receive(t, l)
			}
			for _, want := range []string{tt.want, "WATCHDOG=1\nSTATUS=c"} {
				if err := s.Alive("c"); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, receive(t, l)); diff != "" {
					t.Errorf("datagram (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestManagerStartedAgain has a service manager make its socket again.
func TestManagerStartedAgain(t *testing.T) {
	l, environment := manager(t)
	s, err := dial(t, environment)
	if err != nil {
		t.Fatal(err)
	}
	path := l.LocalAddr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready("x"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v, want %v", err, unix.ECONNREFUSED)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Alive("x"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("READY=1\nWATCHDOG=1\nSTATUS=x", receive(t, l)); diff != "" {
		t.Errorf("datagram (-want +got):\n%s", diff)
	}
}

func TestReloading(t *testing.T) {
	l, environment := manager(t)
	s, err := dial(t, environment)
	if err != nil {
		t.Fatal(err)
	}
	before := monotonic(t)
	if err := s.Reloading(); err != nil {
		t.Fatal(err)
	}
	stamp, ok := strings.CutPrefix(receive(t, l), "RELOADING=1\nMONOTONIC_USEC=")
	got, err := strconv.ParseInt(stamp, 10, 64)
	if !ok || err != nil || got < before || got > monotonic(t) {
		t.Errorf("stamp %q, want the monotonic clock, %d or a little more", stamp, before)
	}
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// TestNoManager makes sure that nothing fails where nobody listens.
func TestNoManager(t *testing.T) {
	for _, environment := range []string{"", "NOTIFY_SOCKET=" + filepath.Join(t.TempDir(), "gone")} {
		s, err := dial(t, environment)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{s.Ready("x"), s.Reloading(), s.Alive("x"), s.Status("x"), s.Stopping(), s.Close()} {
			if err != nil {
				t.Errorf("%q: %v", environment, err)
			}
		}
	}
}

func TestInterval(t *testing.T) {
	tests := []struct {
		name        string
		environment []string
		want        time.Duration
		fails       bool
	}{
		{"no watchdog", nil, defaultInterval, false},
		{"watchdog", []string{"WATCHDOG_USEC=10000000", fmt.Sprint("WATCHDOG_PID=", pid)}, 2500 * time.Millisecond, false},
		{"watchdog of no process in particular", []string{"WATCHDOG_USEC=10000000"}, 2500 * time.Millisecond, false},
		{"watchdog of another process", []string{"WATCHDOG_USEC=10000000", "WATCHDOG_PID=1"}, defaultInterval, false},
		{"impatient watchdog", []string{"WATCHDOG_USEC=1"}, time.Millisecond, false},
		{"nonsense", []string{"WATCHDOG_USEC=10s"}, 0, true},
		{"none", []string{"WATCHDOG_USEC=0"}, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := dial(t, tt.environment...)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v, want one: %v", err, tt.fails)
			}
			if err == nil && s.Interval() != tt.want {
				t.Errorf("interval %v, want %v", s.Interval(), tt.want)
			}
		})
	}
}
