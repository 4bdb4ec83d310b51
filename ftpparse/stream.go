package ftpparse

import "bytes"

// Bounds of a stream.
const (
	// maxLine is the length of a line in bytes. The longest honest lines are path names;
	// a longer line is read to its end, but announces nothing.
	maxLine = 4096
	// maxAhead is the distance in bytes from which on a sequence number is taken for
	// another connection's.
	maxAhead = 1 << 20
)

// mode is how the bytes of a direction are read.
type mode uint8

const (
	readLines   mode = iota
	skipLine         // after a gap: the rest of a line whose begin is lost
	readTLS          // the framing of TLS records, not their content
	readNothing      // unreadable from here on
)

// stream is one direction of the control connection in sequence space.
type stream struct {
	line *lineBuffer // begin of an incomplete line, nil if there is none
	held *reassembly // bytes beyond a gap, nil if there are none
	next uint32      // sequence number of the first unread byte
	fin  uint32      // sequence number of the FIN
	tls  tlsFraming
	mode mode
	// started is set if next is known.
	started bool
	// finSeen is set if fin is known. The FIN may still be ahead of unread bytes, or be
	// where no FIN can be: finRead is set when it was reached.
	finSeen, finRead bool
	// mayNUL ignores one NUL at the start of a line: servers written in C send the one
	// behind their strings, too. Clients are not known to.
	mayNUL bool
}

// unread returns the part of data, which begins at seq, that was not read yet, and where
// it begins. Each byte of the stream is read once: a retransmission with other bytes, or
// one that begins within a line, has no effect (VU#328867).
func (s *stream) unread(seq uint32, data []byte) (uint32, []byte) {
	if !seqLess(seq, s.next) {
		return seq, data
	}
	behind := min(s.next-seq, uint32(len(data)))
	return s.next, data[behind:]
}

// noteEnd handles the FIN of a segment, and bytes behind a FIN of an earlier one.
func (s *stream) noteEnd(g Segment) {
	end := g.Seq + uint32(len(g.Payload))
	switch {
	case g.FIN && !s.finRead:
		s.fin, s.finSeen = end, true
	case len(g.Payload) > 0 && seqLess(s.fin, end):
		s.finSeen = s.finRead // bytes behind the FIN: it was forged
	}
	if s.finSeen && !s.finRead && s.started && s.next == s.fin {
		s.next++
		s.finRead = true
	}
}

// lines calls yield for each line that data completes, and keeps the rest.
//
// A line is free of telnet commands and of its line end, which may have several carriage
// returns. It is tainted if two readers may read it differently. A line whose begin is
// lost is empty and tainted. lines stops when yield changes the mode of the stream
// (AUTH), and returns the bytes that are left then.
func (s *stream) lines(data []byte, yield func(line []byte, tainted bool)) (rest []byte) {
	for len(data) > 0 {
		if s.mode != readLines && s.mode != skipLine {
			return data
		}
		end := bytes.IndexByte(data, lineEnd)
		if end < 0 {
			if s.mode == readLines {
				s.keep(data)
			}
			return nil
		}
		part := data[:end]
		data = data[end+1:]
		switch {
		case s.mode == skipLine:
			s.mode = readLines
			yield(nil, true)
		case s.line == nil && bytes.IndexByte(part, telnetIAC) < 0:
			s.yieldLine(part, false, yield)
		default:
			s.keep(part)
			line := s.line
			s.line = nil
			s.yieldLine(line.text, line.tainted, yield)
			line.release()
		}
	}
	return nil
}

// yieldLine calls yield for one line, which still has its carriage returns.
func (s *stream) yieldLine(line []byte, tainted bool, yield func([]byte, bool)) {
	if len(line) > maxLine+1 { // as much as lineBuffer keeps
		line, tainted = line[:maxLine+1], true
	}
	for len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if s.mayNUL && len(line) > 0 && line[0] == 0 {
		line = line[1:]
	}
	if len(line) > maxLine {
		line, tainted = line[:maxLine], true
	}
	if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
		tainted = true
	}
	yield(line, tainted)
}

// keep adds part of a line to the incomplete line.
func (s *stream) keep(part []byte) {
	if s.line == nil {
		s.line = newLineBuffer()
	}
	s.line.add(part)
}

// dropLine forgets an incomplete line.
func (s *stream) dropLine() {
	if s.line != nil {
		s.line.release()
		s.line = nil
	}
}

// buffered returns the size in bytes of the buffers that s has taken.
func (s *stream) buffered() (n int) {
	if s.line != nil {
		n += cap(s.line.text)
	}
	if s.held != nil {
		n += maxHeld
	}
	return n
}
