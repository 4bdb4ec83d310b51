package firewall

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Operations, as the text of an error says them: they are followed by the table.
const (
	opInstall = "install"
	opRemove  = "remove"
	opList    = "list"
	opAdd     = "add to"
	opDelete  = "delete from"
)

// Error is the error of every operation on the table. Its text says what failed,
// which feature is wanting, and what to do about it.
type Error struct {
	// Op is what failed: "install", "remove", "list", "add to" or "delete from".
	Op string
	// Advice is what is wanting and what to do, or empty.
	Advice string
	// Err is a syscall.Errno where the kernel answered: errors.Is works with the
	// constants of package unix and with os.ErrPermission.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("firewall: " + e.Op + " table inet " + tableName + ": " + e.Err.Error())
	if e.Advice != "" {
		b.WriteString(": " + e.Advice)
	}
	return b.String()
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

func newError(op, advice string, err error) *Error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		err = errno
		switch errno {
		case unix.EPERM:
			advice = "CAP_NET_ADMIN is needed in the user namespace that owns this network namespace"
		case unix.EPROTONOSUPPORT, unix.EINVAL:
			if advice == "" {
				advice = noTables
			}
		}
	}
	return &Error{Op: op, Advice: advice, Err: err}
}
