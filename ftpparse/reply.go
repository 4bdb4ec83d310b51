package ftpparse

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

func isLetter(ch byte) bool { return ch|0x20 >= 'a' && ch|0x20 <= 'z' }
