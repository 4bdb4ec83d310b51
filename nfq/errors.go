package nfq

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is the error of every operation on a queue. Its text says which queue,
// what failed, and what to do about it.
type Error struct {
	// Op is what failed: "open", "bind", "verdict", "send", "receive" or "ping".
	Op    string
	Queue uint16
	// Advice is what to do, or empty.
	Advice string
	// Err is a syscall.Errno where the kernel answered: errors.Is works with the
	// constants of package unix and with os.ErrPermission.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("nfq: %s queue %d: %v", e.Op, e.Queue, e.Err)
	if e.Advice != "" {
		s += ": " + e.Advice
	}
	return s
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// newError makes an *Error of err and finds the advice for it. Only the errno is
// kept, where there is one: what is around it names messages of netlink.
func newError(op string, num uint16, err error) *Error {
	e := &Error{Op: op, Queue: num, Err: err}
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return e
	}
	e.Err = errno
	switch errno {
	case unix.EBUSY, unix.EPERM:
		if o, ok := FindOwner(num); ok {
			e.Err = unix.EBUSY
			e.Advice = fmt.Sprintf("the queue is already bound by %v: stop it or set queue.num to another number", o)
		} else if errno == unix.EPERM {
			e.Advice = "CAP_NET_ADMIN is needed in the user namespace that owns this network namespace"
		}
	case unix.EPROTONOSUPPORT:
		e.Advice = "the kernel has no nfnetlink: load the module nfnetlink (CONFIG_NETFILTER_NETLINK)"
	case unix.EINVAL:
		// nfnetlink answers EINVAL for a subsystem that nobody registered.
		e.Advice = "the kernel has no packet queues: load the module nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE)"
	case unix.EOPNOTSUPP:
		e.Advice = "the kernel's queues cannot fail open: Linux 3.6 or later is needed"
	}
	return e
}
