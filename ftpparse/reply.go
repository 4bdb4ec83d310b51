package ftpparse

import (
	"bytes"
	"net/netip"
)

// A Code is the three-digit code of a reply.
type Code uint16

// Via is the announcing line that a reply with code c is, ViaNone for all others.
func (c Code) Via() Via {
	switch c {
	case 227:
		return R227
	case 228:
		return R228
	case 229:
		return R229
	default:
		return ViaNone
	}
}

// ParseReply reads the code of one line of the server, which comes without its line
// end. Where it announces an endpoint, [Code.Via] and [Via.Endpoint] read on.
//
// The code is 0 if the line does not begin with one: then it is text inside a
// multi-line reply, or no FTP. More reports a hyphen where the code ends: the first
// line of a multi-line reply, whose last line has the same code and a blank (RFC
// 959 section 4.2). Without a code it means nothing.
func ParseReply(line []byte) (code Code, more bool) {
	if len(line) > 3 {
		switch line[3] {
		case ' ':
		case '-':
			more = true
		default:
			return code, more
		}
	}
	if len(line) > 2 {
		a, b, c := line[0]-'0', line[1]-'0', line[2]-'0'
		if a-1 <= 5 && b <= 9 && c <= 9 { // class 1 to 6
			code = Code(a)*100 + Code(b*10+c)
		}
	}
	return code, more
}

// parseList reads the comma-separated numbers in the text of a 227 or 228.
// RFC 959 shows them with and without parentheses, and RFC 1123 section
// 4.1.2.6 has clients look for the first digit; real servers write "=1,2,…" or
// words that hold digits before it. So the first run of digits and commas that
// has both is the list, the whole run, and a reader that would pick another part
// of it does not get its way: the run must be exactly one endpoint.
func parseList(text []byte, f form) (netip.AddrPort, Reason) {
	for comma := bytes.IndexByte(text, ','); comma >= 0; {
		start, end := comma, comma+1
		for start > 0 && isDigit(text[start-1]) {
			start--
		}
		for end < len(text) && text[end] == ',' {
			end++
		}
		if start == comma && (end == len(text) || !isDigit(text[end])) {
			next := bytes.IndexByte(text[end:], ',')
			if next < 0 {
				break
			}
			comma = end + next
			continue
		}
		for end < len(text) && inList[text[end]] {
			end++
		}
		if !standsAlone(text, start, end) {
			return netip.AddrPort{}, Malformed
		}
		return parseEndpoint(text[start:end], f)
	}
	return netip.AddrPort{}, Malformed
}

// inList has the bytes that a list of numbers is made of.
var inList = func() (in [256]bool) {
	for _, ch := range []byte("0123456789,") {
		in[ch] = true
	}
	return in
}()

// standsAlone reports whether text[start:end] is a list of its own and not the
// middle of something else: a sign, a letter or a decimal point beside it.
func standsAlone(text []byte, start, end int) bool {
	if start > 0 {
		switch before := text[start-1]; {
		case isLetter(before), before == '-', before == '+', before == '.', before == '_':
			return false
		}
	}
	if end < len(text) {
		switch after := text[end]; {
		case isLetter(after), after == '-', after == '+', after == '_':
			return false
		case after == '.':
			return end+1 == len(text) || !isDigit(text[end+1])
		}
	}
	return true
}

func isLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'z' }

// parseExtendedPassive reads (<d>net-prt<d>net-addr<d>tcp-port<d>) of RFC 2428
// section 3. The first two fields should be blank; some servers fill in the
// address, with or without its family (glftpd, DrFTPD, ProFTPD), and one leaves
// a delimiter out: (||port|).
func parseExtendedPassive(text []byte) (netip.AddrPort, Reason) {
	open := bytes.IndexByte(text, '(')
	if open < 0 {
		return netip.AddrPort{}, Malformed
	}
	c := cursor{b: text, i: open + 1}
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
