package ftpparse

import (
	"net/netip"
	"strconv"
)

// AppendEndpoint appends an endpoint to dst as a line of kind v names it: the argument
// of the command, or the text in the parentheses of the reply. [Via.Endpoint] reads it
// back.
//
// The endpoint must have an address of the right family, IPv4 for PORT and 227, or
// AppendEndpoint panics. For 229 it needs none: without one the port stands alone, as
// RFC 2428 section 3 wants it. An IPv4-mapped address is written as the IPv4 address,
// and a zone is left out. ViaNone and DefaultPort append nothing.
func (v Via) AppendEndpoint(dst []byte, endpoint netip.AddrPort) []byte {
	addr, port := endpoint.Addr().Unmap().WithZone(""), endpoint.Port()
	switch v {
	case PORT, R227:
		return appendHostPort(dst, addr, port)
	case LPRT, R228:
		return appendLongHostPort(dst, addr, port)
	case EPRT, R229:
		return appendExtended(dst, addr, port)
	default:
		return dst
	}
}

// appendHostPort writes h1,h2,h3,h4,p1,p2 (RFC 959 section 4.1.2).
func appendHostPort(dst []byte, addr netip.Addr, port uint16) []byte {
	a := addr.As4()
	dst = appendOctets(dst, a[:]...)
	dst = append(dst, ',')
	return appendOctets(dst, byte(port>>8), byte(port))
}

// appendLongHostPort writes af,hal,h1,…,pal,p1,p2 (RFC 1639 section 2).
func appendLongHostPort(dst []byte, addr netip.Addr, port uint16) []byte {
	if addr.Is4() {
		a := addr.As4()
		dst = append(dst, "4,4,"...)
		dst = appendOctets(dst, a[:]...)
	} else {
		a := addr.As16()
		dst = append(dst, "6,16,"...)
		dst = appendOctets(dst, a[:]...)
	}
	dst = append(dst, ",2,"...)
	return appendOctets(dst, byte(port>>8), byte(port))
}

// appendExtended writes |net-prt|net-addr|tcp-port| (RFC 2428 section 2), or
// |||tcp-port| if addr is invalid.
func appendExtended(dst []byte, addr netip.Addr, port uint16) []byte {
	switch {
	case addr.Is4():
		dst = append(dst, "|1|"...)
	case addr.Is6():
		dst = append(dst, "|2|"...)
	default:
		dst = append(dst, "||"...)
	}
	dst = addr.AppendTo(dst)
	dst = append(dst, '|')
	dst = strconv.AppendUint(dst, uint64(port), 10)
	return append(dst, '|')
}

// appendOctets writes decimal numbers with commas between them.
func appendOctets(dst []byte, octets ...byte) []byte {
	for i, n := range octets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(n), 10)
	}
	return dst
}
