package ctnetlink

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
)

func TestWrapError(t *testing.T) {
	data := active4().Tuple
	const endpoint = "203.0.113.1 -> 192.168.0.211:39632"
	tests := []struct {
		name string
		op   Op
		t    conntrack.Tuple
		err  error
		want string
	}{
		{
			"no helper", OpExpect, data, unix.EOPNOTSUPP,
			"ctnetlink: expect " + endpoint + ": operation not supported",
		},
		{
			"same tuple", OpExpect, data, unix.EEXIST,
			"ctnetlink: expect " + endpoint + ": file exists",
		},
		{
			"overlap", OpExpect, data, unix.EBUSY,
			"ctnetlink: expect " + endpoint + ": device or resource busy",
		},
		{
			"table full", OpExpect, data, unix.EMFILE,
			"ctnetlink: expect " + endpoint + ": too many open files",
		},
		{
			"unknown master", OpExpect, data, unix.ENOENT,
			"ctnetlink: expect " + endpoint + ": no such file or directory",
		},
		{
			"used", OpDelete, data, unix.ENOENT,
			"ctnetlink: delete " + endpoint + ": no such file or directory",
		},
		{
			"no privilege", OpList,
			conntrack.Tuple{},
			unix.EPERM,
			"ctnetlink: list: operation not permitted",
		},
		{
			"no ctnetlink", OpLookup, active4().Master, unix.EINVAL,
			"ctnetlink: lookup 192.168.0.211:40001 -> 203.0.113.1:21: invalid argument",
		},
		{
			"no nfnetlink", OpDial,
			conntrack.Tuple{},
			os.NewSyscallError("socket", unix.EPROTONOSUPPORT),
			"ctnetlink: dial: protocol not supported",
		},
		{
			"the kernel's words", OpDelete, data, &netlink.OpError{Op: "receive", Err: unix.EBUSY, Message: "later"},
			"ctnetlink: delete " + endpoint + ": device or resource busy (later)",
		},
		{
			"entry is there", OpCreate, data, unix.EEXIST,
			"ctnetlink: create " + endpoint + ": file exists",
		},
		{
			"connection table full", OpCreate, data, unix.ENOMEM,
			"ctnetlink: create " + endpoint + ": cannot allocate memory",
		},
		{"not the kernel", OpList, conntrack.Tuple{}, io.ErrUnexpectedEOF, "ctnetlink: list: unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := WrapError(tt.op, tt.t, tt.err)
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			var want unix.Errno
			if errors.As(tt.err, &want) && !errors.Is(err, want) {
				t.Errorf("%v is not %v", err, want)
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.Op != tt.op || e.Tuple != tt.t {
				t.Errorf("not an *Error of %s %v: %#v", tt.op, tt.t, err)
			}
		})
	}
	if err := WrapError(OpExpect, data, nil); err != nil {
		t.Errorf("WrapError of no error is %v", err)
	}
	if err := WrapError(OpList, conntrack.Tuple{}, unix.EPERM); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v is not os.ErrPermission", err)
	}
}
