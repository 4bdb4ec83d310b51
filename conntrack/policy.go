package conntrack

import (
	"net/netip"
	"strconv"

	"ftpctd/ftpparse"
)

// Reason is ftpparse's: one vocabulary from the line to the metric.
type Reason = ftpparse.Reason

// Reasons of the policy.
const (
	LoginRequired  Reason = "login-required"   // the session has not logged in
	ActiveDisabled Reason = "active-disabled"  // active mode is switched off
	ForeignAddress Reason = "foreign-address"  // the line names another host than its sender (FTP bounce)
	BelowMinPort   Reason = "below-min-port"   // a port under min_port
	PortNotAllowed Reason = "port-not-allowed" // a port outside the configured range
	ControlPort    Reason = "control-port"     // a control port: what comes there is no data connection
	// ActiveBehindNAT refuses what cannot work: the line names the client by an
	// address that the server does not know it by, and the lines of a control
	// connection are not rewritten here. A client that names the address it has
	// outside is served.
	ActiveBehindNAT Reason = "active-behind-nat"
)

// Reasons of the tracker and of the kernel.
const (
	NotAnFTPSession Reason = "not-ftp" // the connection turned out to be no FTP session
	// NotSeenFromStart leaves a connection unread that nobody vouches for: its
	// handshake was not seen, and conntrack did not have it when the daemon started.
	NotSeenFromStart Reason = "not-seen-from-start"
	ClientLimit      Reason = "client-limit" // the client has its share of the connections or of the expectations
	Closed           Reason = "closed"       // the control connection ended
	Expired          Reason = "expired"      // unused for the timeout; of a connection, nothing was seen on it for days
	Superseded       Reason = "superseded"   // newer expectations of the same control connection took its place
	Evicted          Reason = "evicted"      // the table was full
	Clash            Reason = "clash"        // another control connection expects the same endpoint
	NoHelper         Reason = "no-helper"    // the control connection has no helper in the kernel
	NoMaster         Reason = "no-master"    // the control connection is not in the kernel's table
	TableFull        Reason = "table-full"   // the kernel's expectation table is full
	Kernel           Reason = "kernel"       // any other refusal of the kernel
	Translated       Reason = "translated"   // the control connection goes through NAT, and the data connection could not
)

// AddressPolicy is what becomes of a passive reply that names another address
// than the server's.
type AddressPolicy uint8

const (
	// AddressPeer expects the server's own address with the announced port, as
	// clients connect there: a server behind NAT prints its private address.
	AddressPeer AddressPolicy = iota
	// AddressStrict refuses the reply.
	AddressStrict
	// AddressReply expects the address that the reply names. It lets a server
	// open the client's way to any host: for FXP between servers one trusts.
	AddressReply
)

// PortRange is a range of ports, both ends included. The zero value allows none.
type PortRange struct {
	Min, Max uint16
}

// Contains reports whether p lies in r. Port 0 never does.
func (r PortRange) Contains(p uint16) bool { return p != 0 && r.Min <= p && p <= r.Max }

// String returns the range as the configuration writes it: "30000-30999", a single port,
// or nothing for the zero range.
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

// Policy decides which announced endpoints may be expected. The zero value
// admits nothing.
type Policy struct {
	// MinPort is the lowest port that is ever expected.
	MinPort uint16
	// RequireLogin refuses what is announced before the login.
	RequireLogin bool

	PassiveAddress AddressPolicy
	PassivePorts   PortRange

	Active      bool
	ActivePorts PortRange
}

// Judge turns what a line announced into the tuple of the expected data
// connection, in its original direction and before NAT: it comes from one side
// of the control connection c and goes to where that side finds the other. With
// a Reason the tuple is what the line asked for.
func (p *Policy) Judge(c *Connection, e *ftpparse.Event) (Tuple, Reason) {
	port := e.Endpoint.Port()
	addr := e.Endpoint.Addr()
	if e.Via == ftpparse.DefaultPort {
		addr, port = c.Reply.Dst.Addr(), c.Reply.Dst.Port()
	}
	if e.Via.Active() {
		return tuple(c.Reply.Src.Addr(), addr, port), p.judgeActive(c, addr, port, e.BeforeLogin)
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
		why = p.judgePort(port, p.PassivePorts, e.BeforeLogin)
	}
	return tuple(c.Original.Src.Addr(), addr, port), why
}

// judgeActive demands that PORT, EPRT and LPRT name the client itself, in its
// own family: an IPv4-mapped IPv6 address is another address.
func (p *Policy) judgeActive(c *Connection, addr netip.Addr, port uint16, beforeLogin bool) Reason {
	switch {
	case !p.Active:
		return ActiveDisabled
	case addr == c.Reply.Dst.Addr():
		return p.judgePort(port, p.ActivePorts, beforeLogin)
	case addr == c.Original.Src.Addr():
		return ActiveBehindNAT
	default:
		return ForeignAddress
	}
}

func (p *Policy) judgePort(port uint16, allowed PortRange, beforeLogin bool) Reason {
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
