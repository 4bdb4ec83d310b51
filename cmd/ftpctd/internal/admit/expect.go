package admit

import (
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// Expect admits data connections through the kernel's table of expectations, in the modes
// "expect" and "helper". It is safe for concurrent use.
type Expect struct{ kernel *ctnetlink.Conn }

// NewExpect makes an Expect. The expectations that wait for the kernel's answer go
// through kernel, the others with a verdict.
func NewExpect(kernel *ctnetlink.Conn) Expect { return Expect{kernel} }

// AppendExpect appends the message that inserts x to b. The kernel answers only to reject
// it, with the sequence number seq. The error is always nil.
func (Expect) AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) ([]byte, error) {
	return ctnetlink.AppendExpect(b, seq, x), nil
}

// AppendDelete appends the message that deletes x, if it is unused, to b.
func (Expect) AppendDelete(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	return ctnetlink.AppendDelete(b, seq, x)
}

// Expect inserts x and waits for the kernel's answer.
func (e Expect) Expect(x *conntrack.Expectation) error { return e.kernel.Expect(x) }

// Delete deletes x. It fails with ENOENT if x was used, also where another control
// connection expects the same tuple now.
func (e Expect) Delete(x *conntrack.Expectation) error { return e.kernel.DeleteOwn(x) }
