package conntrack

import (
	"net/netip"

	"ftpctd/ftpparse"
)

// Tuple identifies one direction of a TCP connection, like struct nf_conntrack_tuple.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Expectation is a data connection that a control connection has announced. It is the
// kernel's struct nf_conntrack_expect, which makes the first packet of the data connection
// RELATED and serves one connection.
type Expectation struct {
	// Zone is the conntrack zone of both connections.
	Zone uint16
	// Master is the original direction of the control connection: Src is the client, Dst
	// the server.
	Master Tuple
	// Tuple is the original direction of the data connection: the addresses of its first
	// packet before NAT. Any source port matches (Src.Port() is 0), as not all servers use
	// port 20.
	Tuple Tuple
	// AddrNAT reports that NAT changes an address of the control connection.
	AddrNAT bool
	// NAT reports that the data connection needs the NAT of the control connection: the
	// same destination and source address, with the destination port unchanged. Otherwise
	// its NAT is up to the ruleset.
	NAT bool
	// Overflow reports that the client has used up Config.KernelShare: the expectation
	// must not be inserted into the kernel's table.
	Overflow bool
	// Via is the command or reply that announced it.
	Via ftpparse.Via
}
