package conntrack

import (
	"net/netip"

	"ftpctd/ftpparse"
)

// Tuple names one direction of a TCP connection, like struct nf_conntrack_tuple.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Expectation is a data connection that a control connection has announced.
// The kernel keeps it as struct nf_conntrack_expect until its first packet
// arrives, and marks that packet RELATED.
type Expectation struct {
	// Zone is the conntrack zone of both connections.
	Zone uint16
	// Master is the control connection in its original direction: Src is the
	// client, Dst the server.
	Master Tuple
	// Tuple is the expected data connection in its original direction, as its
	// first packet comes in, before NAT. Any source port matches (Src.Port() is
	// 0): servers do not keep to port 20.
	Tuple Tuple
	// Readdressed tells that NAT changes an address of the control connection.
	Readdressed bool
	// NAT tells that NAT changes the control connection, and the data connection is to
	// be translated like it: to the very host that announced it, with the source that
	// the control connection has there. Its destination port stays. Otherwise NAT is left
	// to the rules.
	NAT bool
	// Overflow reports that the client has had its share of the kernel's table of
	// expectations: this one must not go there.
	Overflow bool
	// Via is the line that announced it.
	Via ftpparse.Via
}

// An Admitter is the way of expectations to the kernel. It renders them as
// messages, so that the packet path can send them together with the verdict on
// the packet that announced them: the kernel handles the messages of one
// datagram in order, and the expectation stands before the packet moves on.
type Admitter interface {
	// AppendExpect appends the message that inserts x to b. The kernel answers only
	// if it refuses, with the sequence number seq.
	AppendExpect(b []byte, seq uint32, x *Expectation) []byte
	// AppendDelete appends the message that removes x if it is unused to b.
	AppendDelete(b []byte, seq uint32, x *Expectation) []byte
	// Expect inserts x and waits for the kernel's answer.
	Expect(x *Expectation) error
	// Delete removes x; it fails with ENOENT if x was used, also if another control
	// connection has the same tuple expected now.
	Delete(x *Expectation) error
	// Explain puts the kernel's refusal of x into words: what it means and what
	// to do about it.
	Explain(x *Expectation, err error) error
}
