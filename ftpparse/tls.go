package ftpparse

// TLS record content types (RFC 8446 section 5.1) and what follows them.
const (
	recordAlert       = 21
	recordApplication = 23
	recordFirst       = 20 // change_cipher_spec
	recordLast        = 24 // heartbeat
	recordHeader      = 5
	recordMax         = 1<<14 + 2048 // RFC 5246 section 6.2.3
)

// tlsFraming follows the records of one direction, to find the clear text behind the
// last of them when the session leaves TLS (CCC, RFC 4217 section 9). It reads types and
// lengths, never content.
type tlsFraming struct {
	left uint16 // bytes of the current record still to come
	n    uint8  // bytes of head
	last uint8  // type of the last record, 0 before the first
	head [recordHeader]byte
}

// records skips the TLS records in data. Once the direction has returned to clear text
// it sets the mode to readLines and returns the rest of data. Bytes that are neither a
// record nor clear text behind a closed TLS session make the direction unreadable for
// good.
func (s *stream) records(data []byte) (rest []byte) {
	t := &s.tls
	for len(data) > 0 {
		if t.left > 0 {
			n := min(len(data), int(t.left))
			t.left -= uint16(n)
			data = data[n:]
			continue
		}
		if t.n == 0 && (data[0] < recordFirst || data[0] > recordLast) {
			if !t.closed() || !beginsLine(data[0]) {
				s.mode = readNothing
				return nil
			}
			s.mode = readLines
			return data
		}
		n := copy(t.head[t.n:], data)
		t.n += uint8(n)
		data = data[n:]
		if t.n < recordHeader {
			return nil
		}
		length := int(t.head[3])<<8 | int(t.head[4])
		if t.head[1] != 3 || length > recordMax {
			s.mode = readNothing
			return nil
		}
		t.left, t.n, t.last = uint16(length), 0, t.head[0]
	}
	return nil
}

// closed reports whether the last record may have been a close_notify: an alert until
// TLS 1.2, and in TLS 1.3, which encrypts the type of alerts, application data.
func (t *tlsFraming) closed() bool {
	return t.last == recordAlert || t.last == recordApplication
}

// beginsLine reports whether ch may begin a line of FTP: a letter, a digit, or the
// telnet command before an ABOR.
func beginsLine(ch byte) bool { return isLetter(ch) || isDigit(ch) || ch == telnetIAC }

// beginsRecord reports whether b begins like a TLS record.
func beginsRecord(b []byte) bool {
	return len(b) >= 3 && b[0] >= recordFirst && b[0] <= recordLast && b[1] == 3 && b[2] <= 4
}
