package nfq

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
)

func TestErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{
			"no privilege", fmt.Errorf("could not bind: %w", unix.EPERM),
			"nfq: bind queue 21: operation not permitted",
		},
		{"bound by one who has let go", unix.EBUSY, "nfq: bind queue 21: device or resource busy"},
		{
			"no nfnetlink", os.NewSyscallError("socket", unix.EPROTONOSUPPORT),
			"nfq: bind queue 21: protocol not supported",
		},
		{
			"no queues", unix.EINVAL,
			"nfq: bind queue 21: invalid argument",
		},
		{
			"no fail-open", unix.EOPNOTSUPP,
			"nfq: bind queue 21: operation not supported",
		},
		{"not the kernel", io.ErrUnexpectedEOF, "nfq: bind queue 21: unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t) // where no queue is bound
			err := newError("bind", queue, tt.err)
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			if !errors.Is(tt.err, err.Err) {
				t.Errorf("%v does not hold %v", err, tt.err)
			}
		})
	}
}
