package firewall

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Operations, as the text of an error says them: they are followed by the table.
const (
	OpInstall = "install"
	OpRemove  = "remove"
	OpList    = "list"
	OpAdd     = "add to"
	OpDelete  = "delete from"
)

// Error is the error of every operation on the table.
type Error struct {
	// Op is what failed: "install", "remove", "list", "add to" or "delete from".
	Op string
	// Missing is what the kernel lacks, if it was found to lack something.
	Missing Feature
	// Helper is the conntrack helper that is missing, with FeatureHelper.
	Helper string
	// Err is a syscall.Errno where the kernel answered: errors.Is works with the
	// constants of package unix and with os.ErrPermission.
	Err error
}

// Feature is a part of the kernel that the rules need.
type Feature string

// The features.
const (
	FeatureTables  Feature = "inet tables"
	FeatureCT      Feature = "ct expressions"
	FeaturePayload Feature = "payload matches" // inner headers: Linux 5.16
	FeatureQueue   Feature = "queue"
	FeatureObjects Feature = "object references"
	FeatureFIB     Feature = "fib expressions"
	FeatureMark    Feature = "conntrack marks"
	FeatureHelper  Feature = "conntrack helper"
)

// Error implements error.
func (e *Error) Error() string {
	return "firewall: " + e.Op + " table inet " + tableName + ": " + e.Err.Error()
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// newError makes an *Error of err. Only the errno is kept, where there is one.
func newError(op string, err error) *Error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		err = errno
	}
	return &Error{Op: op, Err: err}
}
