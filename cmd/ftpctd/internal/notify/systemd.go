// Package notify tells systemd how the daemon is: the protocol of sd_notify(3)
// and of sd_watchdog_enabled(3).
package notify

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/mdlayher/sdnotify"
	"golang.org/x/sys/unix"
)

// Of the environment that systemd gives to a service with WatchdogSec=.
const (
	watchdogTime    = "WATCHDOG_USEC"
	watchdogProcess = "WATCHDOG_PID"
)

// defaultInterval is how often the status is told where no watchdog wants to be
// fed.
const defaultInterval = 5 * time.Second

// Systemd is the service manager. Without one its methods do nothing. They are
// safe for concurrent use.
type Systemd struct {
	notifier *sdnotify.Notifier // nil without a service manager
	watchdog time.Duration      // how long it goes unfed; 0 for none
}

// Dial connects to the service manager that started the process pid, if the
// environment names one.
func Dial(getenv func(string) string, pid int) (*Systemd, error) {
	s := &Systemd{}
	if path := getenv(sdnotify.Socket); path != "" {
		var err error
		if s.notifier, err = sdnotify.Open(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot reach the service manager: %s=%q: %w", sdnotify.Socket, path, err)
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

// Ready says that the service works, at its start or again after Reloading.
func (s *Systemd) Ready(status string) error {
	return s.notifier.Notify(sdnotify.Ready, sdnotify.Statusf("%s", status))
}

// Reloading says that the configuration is being read again. Ready must follow.
func (s *Systemd) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	// Type=notify-reload takes it for the answer to its signal by this time.
	return s.notifier.Notify(sdnotify.Reloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// Alive feeds the watchdog. It is not to be called unless the service works.
func (s *Systemd) Alive(status string) error {
	return s.notifier.Notify("WATCHDOG=1", sdnotify.Statusf("%s", status))
}

// Status tells how the service is, and does not feed the watchdog.
func (s *Systemd) Status(status string) error {
	return s.notifier.Notify(sdnotify.Statusf("%s", status))
}

// Stopping says that the service ends.
func (s *Systemd) Stopping() error { return s.notifier.Notify(sdnotify.Stopping) }

// Close closes the connection.
func (s *Systemd) Close() error { return s.notifier.Close() }
