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

// Error is the error of every operation of this package. Its text says what
// was asked, what the kernel answered, and what to do about it.
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
	if advice := e.advice(); advice != "" {
		b.WriteString(": " + advice)
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

// advice says what the answer means for this operation and what to do. The
// meanings are those of ctnetlink_create_expect and __nf_ct_expect_check.
func (e *Error) advice() string {
	errno, ok := errors.AsType[unix.Errno](e.Err)
	if !ok {
		return ""
	}
	switch e.Op {
	case OpExpect:
		switch errno {
		case unix.EOPNOTSUPP:
			return "the control connection has no helper: it began before the rules were in place, or no rule assigns one"
		case unix.EBUSY, unix.EEXIST:
			return "the same endpoint is already expected, by another control connection or an earlier line of this one"
		case unix.EMFILE:
			return "the expectation table is full: raise net.netfilter.nf_conntrack_expect_max"
		case unix.ENOENT:
			return "the control connection is not in the connection table of this network namespace"
		}
	case OpDelete:
		if errno == unix.ENOENT {
			return "the expectation was used, or ran out, or went with its control connection"
		}
	case OpCreate:
		switch errno {
		case unix.ENOMEM:
			return "the connection table is full: raise net.netfilter.nf_conntrack_max"
		case unix.EEXIST:
			return "the data connection is in the connection table already"
		case unix.ENOENT:
			return "the control connection is not in the connection table of this network namespace"
		}
	case OpProbe:
		if errno == unix.EOPNOTSUPP {
			return "the kernel has no such helper for TCP over IPv4 and IPv6: load its module (nf_conntrack_" + e.Helper + ")"
		}
	case OpRegister, OpUnregister, OpHelpers:
		switch errno {
		case unix.EBUSY, unix.EEXIST:
			return "the kernel has a helper of that name by itself, or rules use another program's: choose another name"
		case unix.EINVAL:
			return "the kernel has no user-space helpers: load the module nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"
		case unix.EPERM:
			return "CAP_NET_ADMIN is needed in the initial user namespace"
		}
	}
	switch errno {
	case unix.EPERM, unix.EACCES:
		return "CAP_NET_ADMIN is needed in the user namespace that owns this network namespace"
	case unix.EPROTONOSUPPORT:
		return "the kernel has no nfnetlink: load the module nfnetlink (CONFIG_NETFILTER_NETLINK)"
	case unix.EINVAL:
		// nfnetlink answers EINVAL for a subsystem that nobody registered.
		return "the kernel does not understand: load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)"
	case unix.ENOBUFS, unix.ENOMEM:
		return "the kernel has no memory left for it"
	}
	return ""
}
