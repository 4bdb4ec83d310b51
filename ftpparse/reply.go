package ftpparse

// Code is the three-digit code of a reply (RFC 959 section 4.2).
type Code uint16

// Via returns the kind of announcement that a reply with code c is, ViaNone if it is
// none.
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

// ParseReply reads the code of one line of the server, without its line end. If the line
// names an endpoint, [Code.Via] and [Via.Endpoint] read the rest.
//
// The code is 0 if the line does not begin with one: it is text within a multi-line
// reply, or not FTP. more reports a hyphen behind the code: the line is the first of a
// multi-line reply, which ends with a line with the same code and a blank (RFC 959
// section 4.2). It is meaningless without a code.
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

func isLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'z' }
