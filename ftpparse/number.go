package ftpparse

// A cursor reads text from left to right. Each method consumes what it matches; after a
// failure the position is undefined.
type cursor struct {
	b []byte
	i int
}

func (c *cursor) done() bool { return c.i >= len(c.b) }

// accept consumes ch if it is next.
func (c *cursor) accept(ch byte) bool {
	if c.i < len(c.b) && c.b[c.i] == ch {
		c.i++
		return true
	}
	return false
}

// number reads a decimal number of at most maxDigits digits. Leading zeros do not make
// it octal (019 is 19). More digits fail, whatever the value: a reader with a narrower
// integer would see another number.
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

// octets fills out with numbers of 0 to 255, separated by sep, and returns rangeErr for
// a larger one. Blanks may surround a comma, not a dot. It is number(3) and separator in
// one pass: every PORT and 227 spends its time here.
func (c *cursor) octets(out []byte, sep byte, rangeErr Reason) Reason {
	b, i := c.b, c.i
	for k := range out {
		if k > 0 {
			if i >= len(b) || b[i] != sep {
				return c.spacedOctets(out, sep, rangeErr)
			}
			i++
		}
		if i >= len(b) || !isDigit(b[i]) {
			return c.spacedOctets(out, sep, rangeErr)
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
					return rangeErr
				}
			}
		}
		out[k] = byte(n)
	}
	c.i = i
	return ""
}

// spacedOctets is octets for commas with blanks around them.
func (c *cursor) spacedOctets(out []byte, sep byte, rangeErr Reason) Reason {
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
			return rangeErr
		}
		out[k] = byte(n)
	}
	return ""
}

// skipBlanks returns the index of the first byte of b from i on that is not a blank.
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

func isDigit(ch byte) bool { return ch-'0' <= 9 }
