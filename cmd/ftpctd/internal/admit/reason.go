package admit

import (
	"errors"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

var (
	// errNAT rejects an expectation that would lead elsewhere, or come from elsewhere: an
	// entry that exists bypasses the NAT rules, and the address that it is for may be the
	// router's own.
	errNAT = errors.New("control connection is NATed; entries cannot follow NAT")
	// errShare rejects the expectations of a client that fills the kernel's table.
	errShare = errors.New("client has used up its share of the kernel's expectation table; entries require firewall.manage = true")
)

// Reason names the rejection of an expectation. An errno of conntrack has another meaning
// where nftables answers it.
func Reason(err error) conntrack.Reason {
	if _, ok := errors.AsType[*firewall.Error](err); ok {
		return conntrack.KernelRejected
	}
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return conntrack.Clash
	case errors.Is(err, unix.EOPNOTSUPP):
		return conntrack.NoHelper
	case errors.Is(err, unix.ENOENT):
		return conntrack.NoMaster
	case errors.Is(err, unix.EMFILE):
		return conntrack.TableFull
	case errors.Is(err, errNAT):
		return conntrack.Translated
	case errors.Is(err, errShare):
		return conntrack.ClientLimit
	default:
		return conntrack.KernelRejected
	}
}
