package nfq

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is the error of every operation on a queue.
type Error struct {
	// Op is what failed: "open", "bind", "verdict", "send", "receive" or "ping".
	Op    string
	Queue uint16
	// Owner has bound the queue, where that is why the operation failed.
	Owner *Owner
	// Err is a syscall.Errno where the kernel answered: errors.Is works with the
	// constants of package unix and with os.ErrPermission. It is EBUSY with an Owner.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("nfq: %s queue %d: %v", e.Op, e.Queue, e.Err)
	if e.Owner != nil {
		s += fmt.Sprintf(": the queue is already bound by %v", e.Owner)
	}
	return s
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// newError makes an *Error of err. Only the errno is kept, where there is one: what
// is around it names messages of netlink.
func newError(op string, num uint16, err error) *Error {
	e := &Error{Op: op, Queue: num, Err: err}
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return e
	}
	e.Err = errno
	// The kernel answers EPERM both without CAP_NET_ADMIN and where another socket
	// has the queue.
	if errno == unix.EBUSY || errno == unix.EPERM {
		if o, ok := FindOwner(num); ok {
			e.Err, e.Owner = unix.EBUSY, &o
		}
	}
	return e
}
