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

// Op is what was asked of the kernel.
type Op string

// The operations.
const (
	OpDial   Op = "dial"   // open the netlink socket
	OpExpect Op = "expect" // insert an expectation
	OpDelete Op = "delete" // withdraw an expectation
	OpList   Op = "list"   // list the expectations
	OpLookup Op = "lookup" // look a control connection up
	OpCreate Op = "create" // make the entry of a data connection
	OpProbe  Op = "probe"  // ask what the kernel can do

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
	// Helper is the name of the helper that was registered, deleted or probed;
	// else empty.
	Helper string
	// Message is what the kernel added in words (NLMSGERR_ATTR_MSG), or empty.
	Message string
	// Err is a syscall.Errno where the kernel answered, so that errors.Is works
	// with the constants of package unix and with os.ErrPermission.
	Err error
}

// Explain turns an error of the kernel into an *[Error]. It is for answers that
// arrive by another way than a [Conn]: those to messages made by [AppendExpect],
// [AppendDelete] and [AppendEntry] that were sent on the socket of a queue. t is
// the data connection. Explain(op, t, nil) is nil.
func Explain(op Op, t conntrack.Tuple, err error) error {
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

// end names one end of a connection, without the port where it is a wildcard.
func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// Unwrap returns the error of the kernel.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is [ErrNoCTHelper] and the error says so.
func (e *Error) Is(target error) bool {
	return target == ErrNoCTHelper && e.onHelpers() &&
		(errors.Is(e.Err, unix.EINVAL) || errors.Is(e.Err, unix.EPERM))
}

// onHelpers reports whether the operation is one of nfnetlink_cthelper.
func (e *Error) onHelpers() bool {
	return e.Op == OpRegister || e.Op == OpUnregister || e.Op == OpHelpers
}
