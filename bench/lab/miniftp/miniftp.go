// Package miniftp is a minimal FTP client and server (RFC 959, RFC 2428) for tests,
// the demo and benchmarks. They open data connections with PORT, EPRT, PASV and
// EPSV, over IPv4 and IPv6.
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

// Network opens sockets. A host of a lab is one.
type Network interface {
	// DialTCP connects to the remote address, from the local one if that is
	// valid. The local port may be in use by other connections.
	DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error)

	// ListenTCP listens on the local address. With port 0 the kernel chooses one.
	ListenTCP(ctx context.Context, local netip.AddrPort) (net.Listener, error)
}

// Way is a way to open data connections: the line that announces the endpoint, and the
// server's address, which determines the family of both connections.
type Way struct {
	Via    ftpparse.Via
	Server netip.Addr
}

// Ways returns all ways to open data connections with the servers at the addresses,
// grouped by server. It omits lines that cannot name an address of the server's family,
// see [Supports].
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

// Supports reports whether a line can name an address of the family of addr: PORT and
// 227 are limited to IPv4.
func Supports(via ftpparse.Via, addr netip.Addr) bool {
	switch via {
	case ftpparse.PORT, ftpparse.R227:
		return addr.Is4()
	case ftpparse.EPRT, ftpparse.R229:
		return true
	}
	return false
}

// ErrNoDataConnection is wrapped by the error of a transfer whose control connection
// works but whose data connection could not be opened, as through a firewall without
// a helper.
var ErrNoDataConnection = errors.New("the data connection could not be opened")

// OpError is the error type of this package.
type OpError struct {
	// Op is the FTP command that failed, with the way of its data connection if
	// it has one, such as "RETR file via PORT".
	Op string

	// Err is the cause: ErrNoDataConnection, a *textproto.Error with the
	// server's reply, an error of the network, or several.
	Err error
}

// Error describes the failure.
func (e *OpError) Error() string { return "ftp: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// cannotOpen is the reply code for "cannot open data connection".
const cannotOpen = 425

// opError wraps an error with its operation, and a 425 reply with ErrNoDataConnection.
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

// parseHostPort parses h1,h2,h3,h4,p1,p2.
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

// parseExtended parses |family|address|port|. Without both family and address (RFC 2428
// section 3), the returned address is invalid.
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

// between returns the text between the first occurrence of open and the next of end.
func between(s, open, end string) (string, bool) {
	_, s, ok := strings.Cut(s, open)
	if !ok {
		return "", false
	}
	s, _, ok = strings.Cut(s, end)
	return s, ok
}

// write writes a line in one segment or byte by byte. Go sets TCP_NODELAY, so each
// write is a segment.
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

// unmap returns a TCP address, with the IPv4-mapped addresses of dual-stack sockets
// (::ffff:a.b.c.d) as IPv4.
func unmap(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
