package conntrack

import "ftpctd/ftpparse"

// Connection is a control connection as the kernel's conntrack has it. Where NAT
// translates it, neither direction is the other one turned round.
type Connection struct {
	// Original is the direction of the connection's first packet, as it came in:
	// Src is the client, Dst the server as the client knows it.
	Original Tuple
	// Reply is the other direction: Src is the server, Dst the client as the
	// server knows it.
	Reply Tuple
	// Zone is the conntrack zone; 0 is the default.
	Zone uint16
	// ID tells the entry of the connection from another one that had or will have
	// the same tuples (CTA_ID).
	ID uint32
	// State is where conntrack is in the connection's life.
	State TCPState
	// Assured reports that both sides have spoken since the handshake (IPS_ASSURED).
	Assured bool
	// PickedUp reports that conntrack did not see the handshake: it made the connection
	// of packets in the middle, which may have been forged (nf_conntrack_tcp_loose), or
	// another host told it of the connection.
	PickedUp bool
	// Unread reports that the daemon has given the connection up (UnreadLabel).
	Unread bool
	// Expected reports that another connection announced this one (IPS_EXPECTED):
	// it is a data connection, whatever its ports.
	Expected bool
}

// UnreadLabel is the label of connections that are not read, of the 128 that conntrack has
// for each. It is what keeps the rules from queueing them, and outlives the daemon.
const UnreadLabel = 125

// TCPState is a state of conntrack's TCP tracking: enum tcp_conntrack of
// include/uapi/linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// The states that tell how a connection began.
const (
	StateNone        TCPState = iota
	StateSynSent              // the client's SYN was seen
	StateSynRecv              // and the server's SYN/ACK, which answers it
	StateEstablished          // and the client's ACK; or conntrack picked the connection up in the middle
)

// untranslated is the connection between ends, if no NAT is in its way.
func untranslated(zone uint16, ends Tuple) Connection {
	return Connection{Original: ends, Reply: ends.turned(), Zone: zone}
}

// isControl reports whether c is a control connection between ends in their
// direction: the client opened it, and no other connection announced it.
func (c *Connection) isControl(ends Tuple) bool { return c.Ends() == ends && !c.Expected }

// Ends are the client and the server themselves. They are what packets show
// between the translation of the destination and that of the source: where the
// queue's rules stand.
func (c *Connection) Ends() Tuple { return Tuple{Src: c.Original.Src, Dst: c.Reply.Src} }

// translation returns what NAT makes of c, nil if it changes nothing of a connection
// whose packets are in zone.
func (c *Connection) translation(zone uint16) *Connection {
	if !c.translated() && c.Zone == zone {
		return nil
	}
	nat := Connection{Original: c.Original, Reply: c.Reply, Zone: c.Zone} // only this escapes to the heap
	return &nat
}

// translated reports whether NAT changes an address or a port.
func (c *Connection) translated() bool { return c.Reply != c.Original.turned() }

// readdressed reports whether NAT changes an address.
func (c *Connection) readdressed() bool {
	turned := c.Original.turned()
	return c.Reply.Src.Addr() != turned.Src.Addr() || c.Reply.Dst.Addr() != turned.Dst.Addr()
}

// turned is the tuple of the other direction.
func (t Tuple) turned() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

// expectation is the one for a data connection that a line on c has announced.
func (c *Connection) expectation(tuple Tuple, via ftpparse.Via) Expectation {
	announcer := c.Original.Dst // as the other side knows it
	if via.Active() {
		announcer = c.Reply.Dst
	}
	return Expectation{
		Zone: c.Zone, Master: c.Original, Tuple: tuple, Via: via,
		Readdressed: c.readdressed(), NAT: c.translated() && tuple.Dst.Addr() == announcer.Addr(),
	}
}
