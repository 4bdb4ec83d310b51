package ftpparse

import (
	"bytes"
	"net/netip"
)

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

// extended reads <d>net-prt<d>net-addr<d>tcp-port<d> of RFC 2428 section 2. Some
// clients leave out the last delimiter. A client whose socket serves both families
// spells its IPv4 address as an IPv4-mapped one: that is the IPv4 address (RFC 4291
// section 2.5.5.2), and on an IPv6 connection another host's.
func (c *cursor) extended() (netip.AddrPort, Reason) {
	d, ok := c.delimiter()
	if !ok {
		return netip.AddrPort{}, Malformed
	}
	family, ok := c.number(1)
	if !ok || !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	addr, r := c.netAddr(family, d)
	if r != "" {
		return netip.AddrPort{}, r
	}
	if !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	port, r := c.port()
	if r != "" {
		return netip.AddrPort{}, r
	}
	if !c.done() && !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	return netip.AddrPortFrom(addr, port), ""
}

// delimiter reads RFC 2428's <d>: any of ASCII 33 to 126. A digit would make
// the fields ambiguous and is refused, as the kernel's helper does.
func (c *cursor) delimiter() (byte, bool) {
	if c.done() || c.b[c.i] < 33 || c.b[c.i] > 126 || isDigit(c.b[c.i]) {
		return 0, false
	}
	c.i++
	return c.b[c.i-1], true
}

// netAddr reads the address of a family (1 IPv4, 2 IPv6) up to the delimiter.
func (c *cursor) netAddr(family uint32, d byte) (netip.Addr, Reason) {
	switch family {
	case 1:
		var a [4]byte
		if r := c.octets(a[:], '.', BadAddress); r != "" {
			return netip.Addr{}, r
		}
		return netip.AddrFrom4(a), ""
	case 2:
		start := c.i
		for !c.done() && c.b[c.i] != d {
			c.i++
		}
		a, ok := parseIPv6(c.b[start:c.i])
		if !ok {
			return netip.Addr{}, BadAddress
		}
		return a.Unmap(), ""
	default:
		return netip.Addr{}, BadFamily
	}
}

// parseList reads the comma-separated numbers in the text of a 227 or 228.
// RFC 959 shows them with and without parentheses, and RFC 1123 section
// 4.1.2.6 has clients look for the first digit; real servers write "=1,2,…", blanks
// behind the commas, or words that hold digits and commas before it. So the first
// list of numbers that is long enough for an endpoint counts, all of it, and a
// reader that would pick another part of it does not get its way: the list must be
// exactly one endpoint.
func parseList(text []byte, f form) (netip.AddrPort, Reason) {
	for from := 0; ; {
		comma := bytes.IndexByte(text[from:], ',')
		if comma < 0 {
			return netip.AddrPort{}, Malformed
		}
		comma += from
		start := numberStart(text[from:comma]) + from
		if start == comma {
			from = comma + 1
			continue
		}
		if f == hostPort {
			// Most are short and simple.
			c := cursor{b: text, i: start}
			a, why := c.hostPort()
			if why == "" && (c.done() || text[c.i] == ')') && standsAlone(text, start, c.i) {
				return a, ""
			}
		}
		end, n := measureList(text, start)
		if n < f.numbers() {
			from = max(end, comma+1)
			continue
		}
		if !standsAlone(text, start, end) {
			return netip.AddrPort{}, Malformed
		}
		return parseEndpoint(text[start:end], f)
	}
}

// numberStart is where the number begins that text ends with, blanks behind it or
// not; len(text) if it ends with none.
func numberStart(text []byte) int {
	end := len(text)
	for end > 0 && text[end-1] == ' ' {
		end--
	}
	start := end
	for start > 0 && isDigit(text[start-1]) {
		start--
	}
	if start == end {
		return len(text)
	}
	return start
}

// measureList measures the list of n numbers that begins at start: commas, with or
// without blanks, stand between two numbers.
func measureList(text []byte, start int) (end, n int) {
	for i := start; ; {
		for i < len(text) && isDigit(text[i]) {
			i++
		}
		end = i
		n++
		if i == len(text) || text[i] != ',' {
			if i = skipBlanks(text, i); i == len(text) || text[i] != ',' {
				return end, n
			}
		}
		if i++; i == len(text) || !isDigit(text[i]) {
			if i = skipBlanks(text, i); i == len(text) || !isDigit(text[i]) {
				return end, n
			}
		}
	}
}

// standsAlone reports whether text[start:end] is a list of its own and not the
// middle of something else: a sign, a letter or a decimal point beside it.
func standsAlone(text []byte, start, end int) bool {
	if start > 0 {
		switch before := text[start-1]; {
		case isLetter(before), before == '-', before == '+', before == '.', before == '_', before == ',':
			return false
		}
	}
	if end < len(text) {
		switch after := text[end]; {
		case isLetter(after), after == '-', after == '+', after == '_', after == ',':
			return false
		case after == '.':
			return end+1 == len(text) || !isDigit(text[end+1])
		}
	}
	return true
}

// parseExtendedPassive reads (<d>net-prt<d>net-addr<d>tcp-port<d>) of RFC 2428
// section 3. The first two fields should be blank; some servers fill in the
// address, with or without its family (glftpd, DrFTPD, ProFTPD), and one leaves
// a delimiter out: (||port|). A parenthesis that begins with a letter is a word
// ahead of it: (EPSV).
func parseExtendedPassive(text []byte) (netip.AddrPort, Reason) {
	c := cursor{b: text, i: bytes.IndexByte(text, '(') + 1}
	for c.i > 0 && !c.done() && isLetter(c.b[c.i]) {
		next := bytes.IndexByte(text[c.i:], '(') + 1
		if next == 0 {
			return netip.AddrPort{}, Malformed
		}
		c.i += next
	}
	if c.i == 0 {
		return netip.AddrPort{}, Malformed
	}
	d, ok := c.delimiter()
	if !ok || d == '(' || d == ')' {
		return netip.AddrPort{}, Malformed
	}
	var family uint32
	if !c.accept(d) {
		if family, ok = c.number(1); !ok || !c.accept(d) {
			return netip.AddrPort{}, Malformed
		}
		if family != 1 && family != 2 {
			return netip.AddrPort{}, BadFamily
		}
	}
	var addr netip.Addr
	switch {
	case c.accept(d):
		if family != 0 {
			return netip.AddrPort{}, Malformed
		}
	case family == 0 && c.lastField(d):
		// (||port|)
	default:
		if family == 0 {
			family = 1
			if end := bytes.IndexByte(c.b[c.i:], d); end >= 0 && bytes.IndexByte(c.b[c.i:c.i+end], ':') >= 0 {
				family = 2
			}
		}
		var r Reason
		if addr, r = c.netAddr(family, d); r != "" {
			return netip.AddrPort{}, r
		}
		if !c.accept(d) {
			return netip.AddrPort{}, Malformed
		}
	}
	port, r := c.port()
	if r != "" {
		return netip.AddrPort{}, r
	}
	if !c.accept(d) || !c.accept(')') {
		return netip.AddrPort{}, Malformed
	}
	return netip.AddrPortFrom(addr, port), ""
}

// lastField reports whether the field at the cursor is the last one of the
// parenthesis.
func (c *cursor) lastField(d byte) bool {
	end := bytes.IndexByte(c.b[c.i:], d)
	return end >= 0 && c.i+end+1 < len(c.b) && c.b[c.i+end+1] == ')'
}
