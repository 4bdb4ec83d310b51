package engine

import (
	"errors"
	"net/netip"
	"time"

	"ftpctd/conntrack"
)

// Table has the first packet of data connections queued before conntrack sees
// it. It is firewall.Table.
type Table interface {
	AddExpected(src, dst netip.Addr, port uint16, timeout time.Duration) error
	RemoveExpected(src, dst netip.Addr, port uint16) error
	AddOpaque(client, server netip.Addr, timeout time.Duration) error
	RemoveOpaque(client, server netip.Addr) error
}

// Entry is the Admitter of the admission mode "entry", which needs no helper:
// the tracker keeps the expectations, the table has the first packets of their
// data connections queued, and such a packet gets its conntrack entry, with the
// control connection as its master, before conntrack sees it. Conntrack then
// calls it RELATED.
type Entry struct {
	Table Table
	// Timeout is how long a data connection may take to come.
	Timeout time.Duration
}

// AppendExpect implements conntrack.Admitter. It appends nothing: the table
// takes its elements in transactions of its own, and has taken this one when
// AppendExpect returns.
func (e *Entry) AppendExpect(b []byte, _ uint32, x *conntrack.Expectation) ([]byte, error) {
	return b, e.Expect(x)
}

// AppendDelete implements conntrack.Admitter.
func (e *Entry) AppendDelete(b []byte, _ uint32, x *conntrack.Expectation) []byte {
	// A first packet that is queued all the same meets no expectation.
	_ = e.Delete(x)
	return b
}

// errNAT refuses what would lead elsewhere, or come from elsewhere: an entry that
// exists already passes NAT's rules by, and the address that it is for may be the
// router's own.
var errNAT = errors.New("the control connection goes through NAT, which an entry cannot follow: a helper is needed")

// Expect implements conntrack.Admitter.
func (e *Entry) Expect(x *conntrack.Expectation) error {
	if x.Readdressed {
		return errNAT
	}
	return e.Table.AddExpected(x.Tuple.Src.Addr(), x.Tuple.Dst.Addr(), x.Tuple.Dst.Port(), e.Timeout)
}

// Delete implements conntrack.Admitter.
func (e *Entry) Delete(x *conntrack.Expectation) error {
	return e.Table.RemoveExpected(x.Tuple.Src.Addr(), x.Tuple.Dst.Addr(), x.Tuple.Dst.Port())
}

// Explain implements conntrack.Admitter.
func (e *Entry) Explain(_ *conntrack.Expectation, err error) error { return err }
