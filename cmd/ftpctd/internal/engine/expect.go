package engine

import (
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// Expect is the Admitter of the admission mode "expect": the kernel keeps the
// expectations.
type Expect struct {
	*ctnetlink.Conn
}

// AppendExpect implements conntrack.Admitter.
func (Expect) AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	return ctnetlink.AppendExpect(b, seq, x)
}

// AppendDelete implements conntrack.Admitter.
func (Expect) AppendDelete(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	return ctnetlink.AppendDelete(b, seq, x)
}

// Delete implements conntrack.Admitter.
func (k Expect) Delete(x *conntrack.Expectation) error { return k.DeleteOwn(x) }

// Explain implements conntrack.Admitter.
func (Expect) Explain(x *conntrack.Expectation, err error) error {
	return ctnetlink.Explain(ctnetlink.OpExpect, x.Tuple, err)
}
