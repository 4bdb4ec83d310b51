package lab

import (
	"errors"

	"golang.org/x/sys/unix"
)

// OpError is the error type of this package: the operation that failed, the host
// and the cause.
type OpError struct {
	// Op is the operation, such as "create namespace".
	Op string

	// Host is the name of the lab's host, or empty for the lab as a whole.
	Host string

	// Err is the cause.
	Err error
}

// Error describes the failure and how to fix the common ones.
func (e *OpError) Error() string {
	s := "lab: " + e.Op
	if e.Host != "" {
		s += " on " + e.Host
	}
	s += ": " + e.Err.Error()
	switch {
	case errors.Is(e.Err, unix.EPERM):
		s += " (the lab needs root: run it with sudo)"
	case errors.Is(e.Err, unix.EROFS):
		s += " (the lab must be able to write /proc/sys/net: run it in a privileged container)"
	}
	return s
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
