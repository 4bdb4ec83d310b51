package ftpparse

import "net/netip"

// A cursor reads an argument from left to right. Each method consumes what it
// matched; after a failure the position means nothing.
type cursor struct {
	b []byte
	i int
}

func (c *cursor) done() bool { return c.i >= len(c.b) }

// form is a way of writing an endpoint.
type form uint8

const (
	hostPort     form = iota // h1,h2,h3,h4,p1,p2
	longHostPort             // af,hal,h1,…,pal,p1,p2
	extended                 // |net-prt|net-addr|tcp-port|
)

// numbers is how many numbers an endpoint of form f has at least.
func (f form) numbers() int {
	if f == longHostPort {
		return 9 // 4,4,h1,h2,h3,h4,2,p1,p2
	}
	return 6
}

// parseEndpoint reads an endpoint and refuses what follows it: a seventh number,
// say, which another reader may have taken for part of it.
func parseEndpoint(text []byte, f form) (netip.AddrPort, Reason) {
	c := cursor{b: text}
	var a netip.AddrPort
	var why Reason
	switch f {
	case hostPort:
		a, why = c.hostPort()
	case longHostPort:
		a, why = c.longHostPort()
	case extended:
		a, why = c.extended()
	}
	if why == "" && !c.done() {
		why = Malformed
	}
	if why != "" {
		return netip.AddrPort{}, why
	}
	return a, ""
}

// accept consumes ch if it is next.
func (c *cursor) accept(ch byte) bool {
	if c.i < len(c.b) && c.b[c.i] == ch {
		c.i++
		return true
	}
	return false
}

// number reads a decimal number of at most maxDigits digits. Leading zeros are
// decimal zeros, not octal (019 is 19). More digits than allowed fail, whatever
// their value: a reader with a narrower integer would see another number.
func (c *cursor) number(maxDigits int) (uint32, bool) {
	b := c.b[c.i:]
	if len(b) == 0 || !isDigit(b[0]) {
		return 0, false
	}
	n := uint32(b[0] - '0')
	i := 1
	for ; i < len(b) && isDigit(b[i]); i++ {
		if i == maxDigits {
			return 0, false
		}
		n = n*10 + uint32(b[i]-'0')
	}
	c.i += i
	return n, true
}

// octets fills out with numbers of 0 to 255 that sep separates, and gives over
// for a larger one. Blanks may stand around a comma, not around a dot. It is
// number(3) and separator in one pass: every PORT and 227 spends its time here.
func (c *cursor) octets(out []byte, sep byte, over Reason) Reason {
	b, i := c.b, c.i
	for k := range out {
		if k > 0 {
			if i >= len(b) || b[i] != sep {
				return c.spacedOctets(out, sep, over)
			}
			i++
		}
		if i >= len(b) || !isDigit(b[i]) {
			return c.spacedOctets(out, sep, over)
		}
		n := uint(b[i] - '0')
		i++
		if i < len(b) && isDigit(b[i]) {
			n = n*10 + uint(b[i]-'0')
			i++
			if i < len(b) && isDigit(b[i]) {
				n = n*10 + uint(b[i]-'0')
				i++
				if i < len(b) && isDigit(b[i]) {
					return Malformed
				}
				if n > 255 {
					return over
				}
			}
		}
		out[k] = byte(n)
	}
	c.i = i
	return ""
}

// spacedOctets is octets for where blanks stand around the commas.
func (c *cursor) spacedOctets(out []byte, sep byte, over Reason) Reason {
	if sep != ',' {
		return Malformed
	}
	c.i = skipBlanks(c.b, c.i)
	for k := range out {
		if k > 0 && !c.comma() {
			return Malformed
		}
		n, ok := c.number(3)
		switch {
		case !ok:
			return Malformed
		case n > 255:
			return over
		}
		out[k] = byte(n)
	}
	return ""
}

// skipBlanks is the place of the first byte of b from i on that is no blank.
func skipBlanks(b []byte, i int) int {
	for i < len(b) && b[i] == ' ' {
		i++
	}
	return i
}

// comma consumes a comma and the blanks around it.
func (c *cursor) comma() bool {
	c.i = skipBlanks(c.b, c.i)
	if !c.accept(',') {
		return false
	}
	c.i = skipBlanks(c.b, c.i)
	return true
}

// port reads a port of 1 to 65535.
func (c *cursor) port() (uint16, Reason) {
	n, ok := c.number(5)
	if !ok {
		return 0, Malformed
	}
	if n == 0 || n > 65535 {
		return 0, BadPort
	}
	return uint16(n), ""
}

// portOctets reads ",p1,p2" and gives p1×256+p2.
func (c *cursor) portOctets() (uint16, Reason) {
	var p [2]byte
	if !c.accept(',') && !c.comma() {
		return 0, Malformed
	}
	if r := c.octets(p[:], ',', BadPort); r != "" {
		return 0, r
	}
	port := uint16(p[0])<<8 | uint16(p[1])
	if port == 0 {
		return 0, BadPort
	}
	return port, ""
}

// hostPort reads h1,h2,h3,h4,p1,p2 of RFC 959 section 4.1.2.
func (c *cursor) hostPort() (netip.AddrPort, Reason) {
	var a [4]byte
	if r := c.octets(a[:], ',', BadAddress); r != "" {
		return netip.AddrPort{}, r
	}
	port, r := c.portOctets()
	return netip.AddrPortFrom(netip.AddrFrom4(a), port), r
}

// longHostPort reads af,hal,h1,…,pal,p1,p2 of RFC 1639 section 2.
func (c *cursor) longHostPort() (netip.AddrPort, Reason) {
	af, ok := c.number(3)
	if !ok || !c.comma() {
		return netip.AddrPort{}, Malformed
	}
	hal, ok := c.number(3)
	if !ok || !c.comma() {
		return netip.AddrPort{}, Malformed
	}
	if known := af == 4 && hal == 4 || af == 6 && hal == 16; !known {
		return netip.AddrPort{}, BadFamily
	}
	var a [16]byte
	if r := c.octets(a[:hal], ',', BadAddress); r != "" {
		return netip.AddrPort{}, r
	}
	if !c.comma() {
		return netip.AddrPort{}, Malformed
	}
	if pal, ok := c.number(3); !ok || pal != 2 {
		return netip.AddrPort{}, Malformed
	}
	addr := netip.AddrFrom16(a)
	if af == 4 {
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	port, r := c.portOctets()
	return netip.AddrPortFrom(addr, port), r
}

// parseIPv6 is inet_pton(AF_INET6) without its allocation: netip.ParseAddr
// takes a string. A zone identifier is refused: it would mean something on the
// sender's host only.
func parseIPv6(b []byte) (netip.Addr, bool) {
	var (
		out      [16]byte
		n        int  // bytes of out that are filled
		ellipsis = -1 // where "::" stood
		c        = cursor{b: b}
	)
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		ellipsis = 0
		c.i = 2
	}
	for n < 16 && !c.done() {
		start := c.i
		group, ok := c.hex16()
		if !ok {
			return netip.Addr{}, false
		}
		if !c.done() && c.b[c.i] == '.' {
			if n > 12 || ellipsis < 0 && n != 12 {
				return netip.Addr{}, false
			}
			c.i = start
			if !c.dottedQuad(out[n : n+4]) {
				return netip.Addr{}, false
			}
			n += 4
			break
		}
		out[n], out[n+1] = byte(group>>8), byte(group)
		n += 2
		if c.done() {
			break
		}
		if !c.accept(':') || c.done() {
			return netip.Addr{}, false
		}
		if c.accept(':') {
			if ellipsis >= 0 {
				return netip.Addr{}, false
			}
			ellipsis = n
		}
	}
	if !c.done() {
		return netip.Addr{}, false
	}
	if n < 16 {
		if ellipsis < 0 {
			return netip.Addr{}, false
		}
		tail := n - ellipsis
		copy(out[16-tail:], out[ellipsis:n])
		clear(out[ellipsis : 16-tail])
	} else if ellipsis >= 0 {
		return netip.Addr{}, false // "::" must stand for at least one group
	}
	return netip.AddrFrom16(out), true
}

// hex16 reads one to four hexadecimal digits.
func (c *cursor) hex16() (uint16, bool) {
	var n uint16
	start := c.i
	for c.i < len(c.b) {
		var d byte
		switch ch := c.b[c.i]; {
		case isDigit(ch):
			d = ch - '0'
		case ch|0x20 >= 'a' && ch|0x20 <= 'f':
			d = ch | 0x20 - 'a' + 10
		default:
			return n, c.i > start
		}
		if c.i-start == 4 {
			return 0, false
		}
		n = n<<4 | uint16(d)
		c.i++
	}
	return n, c.i > start
}

// dottedQuad reads the IPv4 tail of an IPv6 address. Unlike FTP's own numbers
// it has no leading zeros (RFC 4291 section 2.2, as inet_pton reads it).
func (c *cursor) dottedQuad(out []byte) bool {
	start := c.i
	if c.octets(out, '.', BadAddress) != "" {
		return false
	}
	for i := start; i+1 < c.i; i++ {
		if c.b[i] == '0' && isDigit(c.b[i+1]) && (i == start || c.b[i-1] == '.') {
			return false
		}
	}
	return true
}

func isDigit(ch byte) bool { return ch-'0' <= 9 }
