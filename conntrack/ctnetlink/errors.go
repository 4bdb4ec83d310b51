package ctnetlink

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
)

// Op is an operation of the kernel.
type Op string

// The operations.
const (
	OpDial   Op = "dial"   // open the netlink socket
	OpExpect Op = "expect" // insert an expectation
	OpDelete Op = "delete" // delete an expectation
	OpList   Op = "list"   // list the expectations
	OpLookup Op = "lookup" // look up connections
	OpCreate Op = "create" // create the entry of a data connection
	OpProbe  Op = "probe"  // find out what the kernel supports

	OpRegister   Op = "register"     // register a helper
	OpUnregister Op = "unregister"   // delete a helper
	OpHelpers    Op = "list helpers" // list the user-space helpers
)

// Error is the error of every operation of this package.
type Error struct {
	Op Op
	// Tuple is the data connection, or for OpLookup the control connection; the
	// zero Tuple if there is none.
	Tuple conntrack.Tuple
	// Helper is the name of the helper that was to be registered, deleted or probed.
	Helper string
	// Message is the kernel's message (NLMSGERR_ATTR_MSG), if there is one.
	Message string
	// Err is a syscall.Errno where the kernel answered, so that errors.Is works
	// with the constants of package unix and with os.ErrPermission.
	Err error
}

// WrapError wraps an error of the kernel in an *[Error]. It is for messages of
// [AppendExpect] and the like that were not sent on a [Conn] but on the socket of a
// queue. t is the data connection. WrapError(op, t, nil) is nil.
func WrapError(op Op, t conntrack.Tuple, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Tuple: t, Err: err}
	if op, ok := errors.AsType[*netlink.OpError](err); ok {
		e.Message = op.Message
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		e.Err = errno
	}
	return e
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("ctnetlink: ")
	b.WriteString(string(e.Op))
	if e.Tuple != (conntrack.Tuple{}) {
		b.WriteByte(' ')
		b.WriteString(end(e.Tuple.Src))
		b.WriteString(" -> ")
		b.WriteString(end(e.Tuple.Dst))
	}
	if e.Helper != "" {
		b.WriteString(" helper " + strconv.Quote(e.Helper))
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	if e.Message != "" {
		b.WriteString(" (" + e.Message + ")")
	}
	return b.String()
}

// end returns the text of one end of a connection, without a wildcard port.
func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is [ErrNoCTHelper] and e means that.
func (e *Error) Is(target error) bool {
	return target == ErrNoCTHelper && e.onHelpers() &&
		(errors.Is(e.Err, unix.EINVAL) || errors.Is(e.Err, unix.EPERM))
}

// onHelpers reports whether the operation is one of nfnetlink_cthelper.
func (e *Error) onHelpers() bool {
	return e.Op == OpRegister || e.Op == OpUnregister || e.Op == OpHelpers
}
