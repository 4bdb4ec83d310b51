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
func (Expect) AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) ([]byte, error) {
	return ctnetlink.AppendExpect(b, seq, x), nil
}

// AppendDelete implements conntrack.Admitter.
func (Expect) AppendDelete(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	return ctnetlink.AppendDelete(b, seq, x)
}

// Explain implements conntrack.Admitter.
func (Expect) Explain(x *conntrack.Expectation, err error) error {
	return ctnetlink.Explain(ctnetlink.OpExpect, x.Tuple, err)
}
