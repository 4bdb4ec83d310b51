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
}

// untranslated is the connection between ends, if no NAT is in its way.
func untranslated(zone uint16, ends Tuple) Connection {
	return Connection{Original: ends, Reply: ends.turned(), Zone: zone}
}

// Ends are the client and the server themselves. They are what packets show
// between the translation of the destination and that of the source: where the
// queue's rules stand.
func (c *Connection) Ends() Tuple { return Tuple{Src: c.Original.Src, Dst: c.Reply.Src} }

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
