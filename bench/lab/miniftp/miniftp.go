// Package miniftp is an FTP server and client small enough to read at one
// sitting. They open a data connection in every way that ftpctd knows, over
// IPv4 and IPv6, and need nothing installed. They serve tests, the demo and
// benchmarks; they are not meant for anything else.
//
// RFC 959 and RFC 2428.
package miniftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"

	"ftpctd/ftpparse"
)

// Network makes sockets. A lab's host is one.
type Network interface {
	// DialTCP connects to the remote address, from the local one if that is
	// valid; its port may be in use by other connections.
	DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error)

	// ListenTCP listens on the local address. With port 0 the kernel chooses.
	ListenTCP(ctx context.Context, local netip.AddrPort) (net.Listener, error)
}

// Way is one of the ways to open data connections: by a line that announces where
// the other side is to connect to, with the server at an address, whose family is
// that of both connections.
type Way struct {
	Via    ftpparse.Via
	Server netip.Addr
}

// Ways returns every way in which this package opens data connections with the
// servers at the addresses: server by server, and with each in the order in which
// the lines are usually tried. A line that cannot name an address of the server's
// family is left out, see [Supports].
func Ways(servers ...netip.Addr) []Way {
	var ways []Way
	for _, server := range servers {
		for _, via := range []ftpparse.Via{ftpparse.PORT, ftpparse.EPRT, ftpparse.R227, ftpparse.R229} {
			if Supports(via, server) {
				ways = append(ways, Way{Via: via, Server: server})
			}
		}
	}
	return ways
}

// Family returns "ipv4" or "ipv6", the family of the server's address.
func (w Way) Family() string {
	if w.Server.Is6() {
		return "ipv6"
	}
	return "ipv4"
}

// String returns the family and the line, such as "ipv6 EPRT".
func (w Way) String() string { return w.Family() + " " + w.Via.String() }

// Supports reports whether a line can name an address of the family: PORT and
// 227 have room for IPv4 only.
func Supports(via ftpparse.Via, addr netip.Addr) bool {
	switch via {
	case ftpparse.PORT, ftpparse.R227:
		return addr.Is4()
	case ftpparse.EPRT, ftpparse.R229:
		return true
	}
	return false
}

// ErrNoDataConnection is the cause of an error where the control connection
// did its part and the data connection could not be opened: what a firewall
// does that knows nothing of FTP.
var ErrNoDataConnection = errors.New("the data connection could not be opened")

// OpError is the error type of this package.
type OpError struct {
	// Op is the FTP command that failed, with the way of its data connection
	// if it has one, such as "RETR file via PORT".
	Op string

	// Err is the cause: ErrNoDataConnection, a *textproto.Error with the
	// server's reply, an error of the network, or several.
	Err error
}

// Error describes the failure.
func (e *OpError) Error() string { return "ftp: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// cannotOpen is the code of a reply that refuses a data connection.
const cannotOpen = 425

// opError names the operation in an error, and says what a 425 reply means.
func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code == cannotOpen && !errors.Is(err, ErrNoDataConnection) {
		err = noDataConnection(err)
	}
	return &OpError{Op: op, Err: err}
}

func noDataConnection(cause error) error {
	return fmt.Errorf("%w: %w", ErrNoDataConnection, cause)
}

// formatHostPort writes an IPv4 endpoint as h1,h2,h3,h4,p1,p2 (RFC 959 section
// 4.1.2).
func formatHostPort(ap netip.AddrPort) string {
	a := ap.Addr().As4()
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", a[0], a[1], a[2], a[3], ap.Port()>>8, ap.Port()&0xff)
}

// parseHostPort reads h1,h2,h3,h4,p1,p2.
func parseHostPort(s string) (netip.AddrPort, error) {
	fields := strings.Split(s, ",")
	if len(fields) != 6 {
		return netip.AddrPort{}, fmt.Errorf("%q: %d numbers where h1,h2,h3,h4,p1,p2 has 6", s, len(fields))
	}
	var b [6]byte
	for i, f := range fields {
		n, err := strconv.ParseUint(f, 10, 8)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q: %w", s, err)
		}
		b[i] = byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), nil
}

// formatExtended writes an endpoint as |family|address|port| (RFC 2428 section
// 2).
func formatExtended(ap netip.AddrPort) string {
	family := 1
	if ap.Addr().Is6() {
		family = 2
	}
	return fmt.Sprintf("|%d|%s|%d|", family, ap.Addr(), ap.Port())
}

// parseExtended reads |family|address|port|. Family and address may be absent
// together (RFC 2428 section 3), and then the address is invalid.
func parseExtended(s string) (netip.AddrPort, error) {
	fields := strings.Split(s, "|")
	if len(fields) != 5 || fields[0] != "" || fields[4] != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is not of the form |family|address|port|", s)
	}
	port, err := strconv.ParseUint(fields[3], 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q: %w", s, err)
	}
	var addr netip.Addr
	if fields[1] != "" || fields[2] != "" {
		if addr, err = netip.ParseAddr(fields[2]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q: %w", s, err)
		}
		if family := map[bool]string{true: "1", false: "2"}[addr.Is4()]; fields[1] != family {
			return netip.AddrPort{}, fmt.Errorf("%q: the address is not of family %s", s, fields[1])
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// between returns the text between the first open and the next end.
func between(s, open, end string) (string, bool) {
	_, s, ok := strings.Cut(s, open)
	if !ok {
		return "", false
	}
	s, _, ok = strings.Cut(s, end)
	return s, ok
}

// write writes a line, in one segment or byte by byte. (Go sets TCP_NODELAY:
// each write is a segment of its own.)
func write(w io.Writer, line string, byteWise bool) error {
	line += "\r\n"
	if !byteWise {
		_, err := io.WriteString(w, line)
		return err
	}
	for i := range len(line) {
		if _, err := io.WriteString(w, line[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func localAddr(c net.Conn) netip.AddrPort  { return unmap(c.LocalAddr()) }
func remoteAddr(c net.Conn) netip.AddrPort { return unmap(c.RemoteAddr()) }

// unmap returns a TCP address; one that a socket for both families shows as
// ::ffff:a.b.c.d becomes a.b.c.d.
func unmap(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
