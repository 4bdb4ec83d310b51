package ftpparse

import "net/netip"

// parseIPv6 is inet_pton(AF_INET6). Unlike netip.ParseAddr it does not need a string,
// which would be an allocation. A zone identifier is rejected: it has a meaning on the
// sender's host only.
func parseIPv6(b []byte) (netip.Addr, bool) {
	var (
		out      [16]byte
		n        int  // bytes of out that are filled
		ellipsis = -1 // n at the "::"
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
			c.i = start
			if n > 12 || ellipsis < 0 && n != 12 || !c.dottedQuad(out[n:n+4]) {
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
	if !c.done() || !expand(&out, n, ellipsis) {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(out), true
}

// expand fills in the zeros of a "::" behind the first ellipsis of n bytes. It reports
// whether that makes an address: the "::" must stand for at least one group.
func expand(out *[16]byte, n, ellipsis int) bool {
	if ellipsis < 0 || n == 16 {
		return ellipsis < 0 && n == 16
	}
	tail := n - ellipsis
	copy(out[16-tail:], out[ellipsis:n])
	clear(out[ellipsis : 16-tail])
	return true
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

// dottedQuad reads the IPv4 address at the end of an IPv6 address (RFC 4291 section
// 2.2). Unlike FTP's own numbers it has no leading zeros, as in inet_pton.
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
