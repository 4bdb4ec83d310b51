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

// Environment variables that systemd sets for a service, the last two with
// WatchdogSec=.
const (
	socketPath      = "NOTIFY_SOCKET"
	watchdogTime    = "WATCHDOG_USEC"
	watchdogProcess = "WATCHDOG_PID"
)

// defaultInterval is how often the status is reported without a watchdog.
const defaultInterval = 5 * time.Second

// Systemd is the service manager. Without one its methods do nothing. They are safe for
// concurrent use, and never wait: if the service manager does not read, they return an
// error, and the state that it must know is sent with the next message.
type Systemd struct {
	watchdog time.Duration // WatchdogSec=; 0 for none

	mu   sync.Mutex
	fd   int // a datagram socket, or -1 without a service manager
	addr unix.SockaddrUnix
	owed string // the state that could not be sent yet
}

// Dial opens the socket of the service manager that started the process pid, if the
// environment names one.
func Dial(getenv func(string) string, pid int) (*Systemd, error) {
	s := &Systemd{fd: -1}
	if path := getenv(socketPath); exists(path) {
		var err error
		s.addr.Name = path // "@": the abstract namespace
		s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot reach systemd: %w", os.NewSyscallError("socket", err))
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

// Interval is how often Alive should be called: four times per watchdog timeout, so that
// a call may fail.
func (s *Systemd) Interval() time.Duration {
	if s.watchdog == 0 {
		return defaultInterval
	}
	return max(s.watchdog/4, time.Millisecond)
}

// exists reports whether a socket exists. One in the abstract namespace cannot be
// checked.
func exists(path string) bool {
	if path == "" || path[0] == '@' {
		return path != ""
	}
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Ready reports that the service is up, at its start or after Reloading.
func (s *Systemd) Ready(status string) error {
	return s.send("READY=1", "STATUS="+status)
}

// Reloading reports that the configuration is being reloaded. Ready must follow.
func (s *Systemd) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	// With this time Type=notify-reload recognizes it as the reply to its signal.
	return s.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000), "")
}

// Alive pings the watchdog. It must only be called while the service is healthy.
func (s *Systemd) Alive(status string) error {
	return s.send("", "WATCHDOG=1\nSTATUS="+status)
}

// Status reports the status without pinging the watchdog.
func (s *Systemd) Status(status string) error {
	return s.send("", "STATUS="+status)
}

// Stopping reports that the service is shutting down.
func (s *Systemd) Stopping() error { return s.send("STOPPING=1", "") }

// send sends the state of the service, or else the one that is owed, and rest. If that
// fails the state is owed: systemd would end a service that never becomes ready.
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
	// Sent to the path: a service manager that was restarted has a new socket.
	err := unix.Sendto(s.fd, []byte(message), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &s.addr)
	if err != nil {
		s.owed = state
		return os.NewSyscallError("sendto", err)
	}
	s.owed = ""
	return nil
}

// Close closes the socket. The methods do nothing afterwards.
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
