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

// minNumbers returns how many numbers a list of form f has at least.
func (f form) minNumbers() int {
	if f == longHostPort {
		return 9 // 4,4,h1,h2,h3,h4,2,p1,p2
	}
	return 6
}

// parseEndpoint reads an endpoint and rejects text behind it, such as a seventh number,
// which another reader may take for part of it.
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

// hostPort reads h1,h2,h3,h4,p1,p2 (RFC 959 section 4.1.2).
func (c *cursor) hostPort() (netip.AddrPort, Reason) {
	var a [4]byte
	if why := c.octets(a[:], ',', BadAddress); why != "" {
		return netip.AddrPort{}, why
	}
	port, why := c.portOctets()
	return netip.AddrPortFrom(netip.AddrFrom4(a), port), why
}

// portOctets reads ",p1,p2" and returns p1×256+p2.
func (c *cursor) portOctets() (uint16, Reason) {
	var p [2]byte
	if !c.accept(',') && !c.comma() {
		return 0, Malformed
	}
	if why := c.octets(p[:], ',', BadPort); why != "" {
		return 0, why
	}
	port := uint16(p[0])<<8 | uint16(p[1])
	if port == 0 {
		return 0, BadPort
	}
	return port, ""
}

// longHostPort reads af,hal,h1,…,pal,p1,p2 (RFC 1639 section 2).
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
	if why := c.octets(a[:hal], ',', BadAddress); why != "" {
		return netip.AddrPort{}, why
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
	port, why := c.portOctets()
	return netip.AddrPortFrom(addr, port), why
}

// extended reads <d>net-prt<d>net-addr<d>tcp-port<d> (RFC 2428 section 2). Some clients
// leave out the last delimiter. A client with a dual-stack socket writes its IPv4
// address as an IPv4-mapped one: that is the IPv4 address (RFC 4291 section 2.5.5.2),
// and on an IPv6 connection another host's.
func (c *cursor) extended() (netip.AddrPort, Reason) {
	d, ok := c.delimiter()
	if !ok {
		return netip.AddrPort{}, Malformed
	}
	family, ok := c.number(1)
	if !ok || !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	addr, why := c.addrField(family, d)
	if why != "" {
		return netip.AddrPort{}, why
	}
	port, why := c.port()
	if why != "" {
		return netip.AddrPort{}, why
	}
	if !c.done() && !c.accept(d) {
		return netip.AddrPort{}, Malformed
	}
	return netip.AddrPortFrom(addr, port), ""
}

// delimiter reads the <d> of RFC 2428: any of ASCII 33 to 126. A digit would make the
// fields ambiguous and is rejected, as in the kernel (try_eprt of
// net/netfilter/nf_conntrack_ftp.c).
func (c *cursor) delimiter() (byte, bool) {
	if c.done() || c.b[c.i] < 33 || c.b[c.i] > 126 || isDigit(c.b[c.i]) {
		return 0, false
	}
	c.i++
	return c.b[c.i-1], true
}

// addrField reads an address of a family (1 IPv4, 2 IPv6) and the delimiter behind it.
func (c *cursor) addrField(family uint32, d byte) (addr netip.Addr, why Reason) {
	switch family {
	case 1:
		var a [4]byte
		why = c.octets(a[:], '.', BadAddress)
		addr = netip.AddrFrom4(a)
	case 2:
		addr, why = c.ipv6Field(d)
	default:
		why = BadFamily
	}
	if why == "" && !c.accept(d) {
		why = Malformed
	}
	return addr, why
}

// ipv6Field reads an IPv6 address up to the delimiter.
func (c *cursor) ipv6Field(d byte) (netip.Addr, Reason) {
	start := c.i
	for !c.done() && c.b[c.i] != d {
		c.i++
	}
	addr, ok := parseIPv6(c.b[start:c.i])
	if !ok {
		return netip.Addr{}, BadAddress
	}
	return addr.Unmap(), ""
}

// parseExtendedPassive reads (<d>net-prt<d>net-addr<d>tcp-port<d>) in the text of a 229
// (RFC 2428 section 3).
func parseExtendedPassive(text []byte) (netip.AddrPort, Reason) {
	c := cursor{b: text}
	if !c.openParenthesis() {
		return netip.AddrPort{}, Malformed
	}
	d, ok := c.delimiter()
	if !ok || d == '(' || d == ')' {
		return netip.AddrPort{}, Malformed
	}
	addr, why := c.passiveAddr(d)
	if why != "" {
		return netip.AddrPort{}, why
	}
	port, why := c.port()
	if why != "" {
		return netip.AddrPort{}, why
	}
	if !c.accept(d) || !c.accept(')') {
		return netip.AddrPort{}, Malformed
	}
	return netip.AddrPortFrom(addr, port), ""
}

// openParenthesis moves behind the first opening parenthesis that no letter follows: one
// with a letter begins a word ahead of the endpoint, as in "(EPSV) (|||5000|)".
func (c *cursor) openParenthesis() bool {
	for {
		next := bytes.IndexByte(c.b[c.i:], '(')
		if next < 0 {
			return false
		}
		if c.i += next + 1; c.done() || !isLetter(c.b[c.i]) {
			return true
		}
	}
}

// passiveAddr reads the fields between the first delimiter and the port. They should be
// blank, and the address is invalid then. Some servers fill in the address, with or
// without its family (glftpd, DrFTPD, ProFTPD), and one leaves a delimiter out.
func (c *cursor) passiveAddr(d byte) (netip.Addr, Reason) {
	switch {
	case !c.accept(d): // |1|addr|port|
		return c.familyAndAddr(d)
	case c.accept(d), c.inLastField(d): // |||port| or ||port|
		return netip.Addr{}, ""
	default: // ||addr|port|
		return c.addrField(c.guessFamily(d), d)
	}
}

// familyAndAddr reads net-prt<d>net-addr<d> of a 229.
func (c *cursor) familyAndAddr(d byte) (netip.Addr, Reason) {
	family, ok := c.number(1)
	switch {
	case !ok || !c.accept(d):
		return netip.Addr{}, Malformed
	case family != 1 && family != 2:
		return netip.Addr{}, BadFamily
	case c.accept(d): // a family without its address
		return netip.Addr{}, Malformed
	default:
		return c.addrField(family, d)
	}
}

// guessFamily returns the family of the address field at the cursor by its looks.
func (c *cursor) guessFamily(d byte) uint32 {
	field, _, found := bytes.Cut(c.b[c.i:], []byte{d})
	if found && bytes.IndexByte(field, ':') >= 0 {
		return 2
	}
	return 1
}

// inLastField reports whether the field at the cursor is the last one in the
// parentheses.
func (c *cursor) inLastField(d byte) bool {
	end := bytes.IndexByte(c.b[c.i:], d)
	return end >= 0 && c.i+end+1 < len(c.b) && c.b[c.i+end+1] == ')'
}

// parseList reads the list of numbers in the text of a 227 or 228.
//
// RFC 959 shows the list with and without parentheses, and RFC 1123 section 4.1.2.6
// tells clients to look for the first digit; real servers write "=1,2,…", blanks behind
// the commas, or words with digits and commas ahead of the list. So the first list that
// is long enough for an endpoint counts. All of it must be exactly one endpoint: a
// reader that would pick another part of it must not be steered to that.
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
			// The fast path: most lists are short and without blanks.
			c := cursor{b: text, i: start}
			a, why := c.hostPort()
			if why == "" && (c.done() || text[c.i] == ')') && standsAlone(text, start, c.i) {
				return a, ""
			}
		}
		end, n := measureList(text, start)
		if n < f.minNumbers() {
			from = max(end, comma+1)
			continue
		}
		if !standsAlone(text, start, end) {
			return netip.AddrPort{}, Malformed
		}
		return parseEndpoint(text[start:end], f)
	}
}

// numberStart returns where the number begins that text ends with, with or without
// blanks behind it, or len(text) if it does not end with one.
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

// measureList returns the end of the list of numbers that begins at start, and how many
// there are. A comma, with or without blanks, separates two numbers.
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

// standsAlone reports whether text[start:end] is a list by itself and not part of
// something else, with a sign, a letter or a decimal point beside it.
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
