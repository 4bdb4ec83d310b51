package conntrack

import "ftpctd/ftpparse"

// Connection is a control connection in the kernel's conntrack. With NAT, neither direction
// is the reverse of the other.
type Connection struct {
	// Original is the direction of the first packet, before NAT: Src is the client, Dst the
	// server as the client addresses it.
	Original Tuple
	// Reply is the other direction: Src is the server, Dst the client as the server
	// addresses it.
	Reply Tuple
	// Zone is the conntrack zone; 0 is the default.
	Zone uint16
	// ID distinguishes the entry from earlier and later ones with the same tuples
	// (CTA_ID).
	ID uint32
	// State is the TCP state of the entry.
	State TCPState
	// Assured reports that both sides have sent payload since the handshake (IPS_ASSURED).
	Assured bool
	// PickedUp reports that conntrack did not see the handshake: the entry comes from
	// packets in the middle, which may have been forged (nf_conntrack_tcp_loose), or from
	// another host.
	PickedUp bool
	// Unread reports that the daemon skips the connection (UnreadLabel).
	Unread bool
	// Expected reports that the connection matched an expectation (IPS_EXPECTED): it is a
	// data connection, whatever its ports.
	Expected bool
}

// UnreadLabel is the bit of skipped connections among the 128 conntrack labels. The rules
// queue no payload of a connection that has it, also for the daemon's next run.
const UnreadLabel = 125

// TCPState is a TCP state of conntrack: enum tcp_conntrack of
// include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// The states from which it shows how a connection was opened.
const (
	StateNone        TCPState = iota
	StateSynSent              // SYN seen
	StateSynRecv              // SYN/ACK seen, too
	StateEstablished          // and ACK; or the connection was picked up in the middle
)

// withoutNAT returns the connection between ends if there is no NAT.
func withoutNAT(zone uint16, ends Tuple) Connection {
	return Connection{Original: ends, Reply: ends.reverse(), Zone: zone}
}

// isControl reports whether c is a control connection between ends, opened by their Src.
func (c *Connection) isControl(ends Tuple) bool { return c.Endpoints() == ends && !c.Expected }

// Endpoints returns the real addresses of client and server. Packets have them between DNAT
// and SNAT, where the rules queue them.
func (c *Connection) Endpoints() Tuple { return Tuple{Src: c.Original.Src, Dst: c.Reply.Src} }

// natOf returns the tuples and the zone of c, nil if there is no NAT and the zone is that of
// the packets.
func (c *Connection) natOf(zone uint16) *Connection {
	if !c.hasNAT() && c.Zone == zone {
		return nil
	}
	nat := Connection{Original: c.Original, Reply: c.Reply, Zone: c.Zone} // all that escapes to the heap
	return &nat
}

// hasNAT reports whether NAT changes an address or a port.
func (c *Connection) hasNAT() bool { return c.Reply != c.Original.reverse() }

// hasAddrNAT reports whether NAT changes an address.
func (c *Connection) hasAddrNAT() bool {
	reverse := c.Original.reverse()
	return c.Reply.Src.Addr() != reverse.Src.Addr() || c.Reply.Dst.Addr() != reverse.Dst.Addr()
}

// reverse returns the tuple of the other direction without NAT.
func (t Tuple) reverse() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

// expectation returns the expectation for a data connection that a line on c announced.
func (c *Connection) expectation(tuple Tuple, via ftpparse.Via) Expectation {
	announcer := c.Original.Dst // as its peer addresses it
	if via.Active() {
		announcer = c.Reply.Dst
	}
	return Expectation{
		Zone: c.Zone, Master: c.Original, Tuple: tuple, Via: via,
		AddrNAT: c.hasAddrNAT(), NAT: c.hasNAT() && tuple.Dst.Addr() == announcer.Addr(),
	}
}
