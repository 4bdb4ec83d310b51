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
		start := numberBefore(text[from:comma]) + from
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
		end, n := listFrom(text, start)
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

// numberBefore is where the number begins that text ends with, blanks behind it or
// not; len(text) if it ends with none.
func numberBefore(text []byte) int {
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

// listFrom measures the list of n numbers that begins at start: commas, with or
// without blanks, stand between two numbers.
func listFrom(text []byte, start int) (end, n int) {
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

func isLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'z' }

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
