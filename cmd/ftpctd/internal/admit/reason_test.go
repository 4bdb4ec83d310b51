package admit

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

func TestReason(t *testing.T) {
	answered := func(errno unix.Errno) error {
		return ctnetlink.WrapError(ctnetlink.OpExpect, conntrack.Tuple{}, errno)
	}
	var none *Entry
	_, share := none.AppendExpect(nil, 0, &conntrack.Expectation{})
	_, nat := NewEntry(nil, 0).AppendExpect(nil, 0, &conntrack.Expectation{AddrNAT: true})
	for _, tt := range []struct {
		name string
		err  error
		want conntrack.Reason
	}{
		{name: "expected by another control connection", err: answered(unix.EEXIST), want: conntrack.Clash},
		{name: "expected by another control connection, in another way", err: answered(unix.EBUSY), want: conntrack.Clash},
		{name: "no helper", err: answered(unix.EOPNOTSUPP), want: conntrack.NoHelper},
		{name: "no control connection", err: answered(unix.ENOENT), want: conntrack.NoMaster},
		{name: "table full", err: answered(unix.EMFILE), want: conntrack.TableFull},
		{name: "another errno", err: answered(unix.EINVAL), want: conntrack.KernelRejected},
		{name: "no errno", err: errors.New("no errno"), want: conntrack.KernelRejected},
		{name: "the daemon's table is gone", err: &firewall.Error{Op: "add to", Err: unix.ENOENT}, want: conntrack.KernelRejected},
		{name: "an entry behind NAT", err: nat, want: conntrack.Translated},
		{name: "no entries", err: share, want: conntrack.ClientLimit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Reason(tt.err); got != tt.want {
				t.Errorf("reason %q of %v, want %q", got, tt.err, tt.want)
			}
		})
	}
}
