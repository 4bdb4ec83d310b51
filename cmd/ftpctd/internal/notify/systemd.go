// Package notify tells systemd how the daemon is: the protocol of sd_notify(3)
// and of sd_watchdog_enabled(3).
package notify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Of the environment that systemd gives to a service with WatchdogSec=.
const (
	socketPath      = "NOTIFY_SOCKET"
	watchdogTime    = "WATCHDOG_USEC"
	watchdogProcess = "WATCHDOG_PID"
)

// defaultInterval is how often the status is told where no watchdog wants to be
// fed.
const defaultInterval = 5 * time.Second

// Systemd is the service manager. Without one its methods do nothing. They are
// safe for concurrent use, and never wait: if the service manager does not read,
// they return an error, and what it must know goes along with the next message.
type Systemd struct {
	watchdog time.Duration // how long it goes unfed; 0 for none

	mu   sync.Mutex
	fd   int // a datagram socket, or -1 without a service manager
	addr unix.SockaddrUnix
	owed string // the state that could not be told yet
}

// Dial finds the service manager that started the process pid, if the environment
// names one.
func Dial(getenv func(string) string, pid int) (*Systemd, error) {
	s := &Systemd{fd: -1}
	if path := getenv(socketPath); exists(path) {
		var err error
		s.addr.Name = path // "@": the abstract namespace
		s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot reach the service manager: %w", os.NewSyscallError("socket", err))
		}
	}
	if process := getenv(watchdogProcess); process != "" && process != strconv.Itoa(pid) {
		return s, nil // for the process that started this one
	}
	if usec := getenv(watchdogTime); usec != "" {
		n, err := strconv.ParseUint(usec, 10, 32)
		if err != nil || n == 0 {
			return nil, errors.Join(fmt.Errorf("%s=%q is not a number of microseconds", watchdogTime, usec), s.Close())
		}
		s.watchdog = time.Duration(n) * time.Microsecond
	}
	return s, nil
}

// Interval is how often Alive is to be called: four times as often as the
// watchdog demands, so that one call may fail.
func (s *Systemd) Interval() time.Duration {
	if s.watchdog == 0 {
		return defaultInterval
	}
	return max(s.watchdog/4, time.Millisecond)
}

// exists reports whether a socket is there. One in the abstract namespace cannot be
// looked up.
func exists(path string) bool {
	if path == "" || path[0] == '@' {
		return path != ""
	}
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Ready says that the service works, at its start or again after Reloading.
func (s *Systemd) Ready(status string) error {
	return s.send("READY=1", "STATUS="+status)
}

// Reloading says that the configuration is being read again. Ready must follow.
func (s *Systemd) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	// Type=notify-reload takes it for the answer to its signal by this time.
	return s.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000), "")
}

// Alive feeds the watchdog. It is not to be called unless the service works.
func (s *Systemd) Alive(status string) error {
	return s.send("", "WATCHDOG=1\nSTATUS="+status)
}

// Status tells how the service is, and does not feed the watchdog.
func (s *Systemd) Status(status string) error {
	return s.send("", "STATUS="+status)
}

// Stopping says that the service ends.
func (s *Systemd) Stopping() error { return s.send("STOPPING=1", "") }

// send sends the state of the service, or else the one that is owed, and what else
// there is to say. The state is owed if that fails: a service that is never said to
// be ready would be ended.
func (s *Systemd) send(state, rest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	if state == "" {
		state = s.owed
	}
	message := state
	if state != "" && rest != "" {
		message += "\n"
	}
	message += rest
	// Sent to the path: a service manager that was started again has a new socket.
	err := unix.Sendto(s.fd, []byte(message), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &s.addr)
	if err != nil {
		s.owed = state
		return os.NewSyscallError("sendto", err)
	}
	s.owed = ""
	return nil
}

// Close ends it. Its methods do nothing afterwards.
func (s *Systemd) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return os.NewSyscallError("close", err)
}
