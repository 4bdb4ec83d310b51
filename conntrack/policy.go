package conntrack

import (
	"net/netip"
	"strconv"

	"ftpctd/ftpparse"
)

// Reason is the type of all reasons, from the parser to the metrics.
type Reason = ftpparse.Reason

// Reasons of the policy.
const (
	LoginRequired  Reason = "login-required"   // announced before the login
	ActiveDisabled Reason = "active-disabled"  // active mode is disabled
	ForeignAddress Reason = "foreign-address"  // the line names another host than its sender (FTP bounce)
	BelowMinPort   Reason = "below-min-port"   // port below min_port
	PortNotAllowed Reason = "port-not-allowed" // port outside the configured range
	ControlPort    Reason = "control-port"     // a data connection to a control port
	// ActiveBehindNAT: the line names the client's address before NAT, which the server
	// cannot reach. Payload is not rewritten; a client may name its address after NAT.
	ActiveBehindNAT Reason = "active-behind-nat"
)

// Reasons of the tracker and of the kernel.
const (
	NotAnFTPSession Reason = "not-ftp" // the connection is not FTP
	// NotSeenFromStart: the handshake was not seen, and the connection is not one of Older.
	NotSeenFromStart Reason = "not-seen-from-start"
	ClientLimit      Reason = "client-limit" // the client's share of connections or expectations is used up
	Closed           Reason = "closed"       // the control connection closed
	Expired          Reason = "expired"      // expectation unused for its timeout, or connection idle for days
	Superseded       Reason = "superseded"   // replaced by a newer expectation of the same control connection
	Evicted          Reason = "evicted"      // a table was full
	Clash            Reason = "clash"        // another control connection expects the same endpoint
	NoHelper         Reason = "no-helper"    // the control connection has no helper in the kernel
	NoMaster         Reason = "no-master"    // the control connection is not in the kernel's table
	TableFull        Reason = "table-full"   // the kernel's expectation table is full
	KernelRejected   Reason = "kernel"       // the kernel rejected it for any other reason
	Translated       Reason = "translated"   // a data connection cannot get the NAT of its control connection
)

// AddressPolicy decides on passive replies that name another address than the server's.
type AddressPolicy uint8

const (
	// AddressPeer expects the announced port at the server's own address, as clients
	// connect there: a server behind NAT sends its private address.
	AddressPeer AddressPolicy = iota
	// AddressStrict rejects the reply.
	AddressStrict
	// AddressReply expects the address in the reply, for FXP between trusted servers: any
	// server may then admit its client to any host.
	AddressReply
)

// PortRange is an inclusive range of ports. The zero value is empty.
type PortRange struct {
	Min, Max uint16
}

// Contains reports whether p is in r. Port 0 never is.
func (r PortRange) Contains(p uint16) bool { return p != 0 && r.Min <= p && p <= r.Max }

// String returns the range in the form of the configuration: "30000-30999", a single port,
// or "" for the zero range.
func (r PortRange) String() string {
	switch {
	case r == PortRange{}:
		return ""
	case r.Min == r.Max:
		return strconv.Itoa(int(r.Min))
	default:
		return strconv.Itoa(int(r.Min)) + "-" + strconv.Itoa(int(r.Max))
	}
}

// Policy decides which announced endpoints may be expected. The zero value rejects all.
type Policy struct {
	// MinPort is the lowest port that may be expected.
	MinPort uint16
	// RequireLogin rejects announcements before the login.
	RequireLogin bool

	PassiveAddress AddressPolicy
	PassivePorts   PortRange

	Active      bool
	ActivePorts PortRange
}

// check returns the original tuple, before NAT, of the data connection that a line on the
// control connection c announced: from the peer of the announcing side, to the address at
// which the peer reaches that side. If there is a Reason to reject it, the tuple is what
// the line asked for.
func (p *Policy) check(c *Connection, e *ftpparse.Event) (Tuple, Reason) {
	port := e.Endpoint.Port()
	addr := e.Endpoint.Addr()
	if e.Via == ftpparse.DefaultPort {
		addr, port = c.Reply.Dst.Addr(), c.Reply.Dst.Port()
	}
	if e.Via.Active() {
		return tuple(c.Reply.Src.Addr(), addr, port), p.checkActive(c, addr, port, e.BeforeLogin)
	}
	server := c.Original.Dst.Addr()
	if !addr.IsValid() || addr == c.Reply.Src.Addr() {
		addr = server
	}
	var why Reason
	if addr != server {
		switch {
		case p.PassiveAddress == AddressPeer, p.PassiveAddress == AddressReply && addr.IsUnspecified():
			addr = server
		case p.PassiveAddress == AddressReply && addr.Is4() == server.Is4() && addr.IsGlobalUnicast():
		default:
			why = ForeignAddress
		}
	}
	if why == "" {
		why = p.checkPort(port, p.PassivePorts, e.BeforeLogin)
	}
	return tuple(c.Original.Src.Addr(), addr, port), why
}

// checkActive accepts PORT, EPRT and LPRT only with the client's own address. An IPv4-mapped
// IPv6 address differs from the IPv4 address.
func (p *Policy) checkActive(c *Connection, addr netip.Addr, port uint16, beforeLogin bool) Reason {
	switch {
	case !p.Active:
		return ActiveDisabled
	case addr == c.Reply.Dst.Addr():
		return p.checkPort(port, p.ActivePorts, beforeLogin)
	case addr == c.Original.Src.Addr():
		return ActiveBehindNAT
	default:
		return ForeignAddress
	}
}

func (p *Policy) checkPort(port uint16, allowed PortRange, beforeLogin bool) Reason {
	switch {
	case port == 0 || port < p.MinPort:
		return BelowMinPort
	case !allowed.Contains(port):
		return PortNotAllowed
	case p.RequireLogin && beforeLogin:
		return LoginRequired
	default:
		return ""
	}
}

func tuple(src, dst netip.Addr, port uint16) Tuple {
	return Tuple{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, port)}
}
