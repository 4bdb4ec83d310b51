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
