package ftpparse

import (
	"bytes"
	"sync"
)

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
	readTLS          // TLS records, whose framing is followed and whose content is not
	readNothing      // not to be understood any more
)

// telnet is where in a telnet command the last byte left off (RFC 854).
type telnet uint8

const (
	telnetNone    telnet = iota
	telnetCommand        // after IAC
	telnetOption         // after IAC WILL, WONT, DO or DONT
)

const (
	telnetIAC  = 255
	telnetWILL = 251
	telnetSE   = 240 // the lowest telnet command
	lineEnd    = '\n'
)

// stream is one direction of the control connection in sequence space.
type stream struct {
	line    []byte      // begin of an incomplete line, nil if there is none
	held    *reassembly // bytes beyond a gap, nil if there are none
	next    uint32      // sequence number of the first unread byte
	fin     uint32      // sequence number of the FIN
	started bool        // next is known
	// finSeen is set if fin is known. The FIN may still be ahead of unread bytes, or be
	// where no FIN can be: finRead is set when it was reached.
	finSeen, finRead bool
	mode             mode
	telnet           telnet
	tainted          bool // the incomplete line has a NUL, a bare CR or is too long
	// mayNUL ignores one NUL at the start of a line: servers written in C send the one
	// behind their strings, too. Clients are not known to.
	mayNUL bool
	tls    tlsFraming
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
// A line is free of telnet commands and of its line end, whose carriage returns may
// be several; tainted tells that two readers may take it for different lines. A line
// whose begin is lost is empty and tainted. It stops when yield changes the mode of the
// stream (AUTH) and returns the bytes that are left then.
func (s *stream) lines(data []byte, yield func(line []byte, tainted bool)) (rest []byte) {
	for len(data) > 0 {
		switch s.mode {
		case skipLine:
			end := bytes.IndexByte(data, lineEnd)
			if end < 0 {
				return nil
			}
			data = data[end+1:]
			s.mode = readLines
			yield(nil, true)
			continue
		case readLines:
		default:
			return data
		}
		end := bytes.IndexByte(data, lineEnd)
		if end < 0 {
			s.keep(data)
			return nil
		}
		part := data[:end]
		data = data[end+1:]
		if s.line == nil && s.telnet == telnetNone && bytes.IndexByte(part, telnetIAC) < 0 {
			s.yieldLine(part, false, yield)
			continue
		}
		s.keep(part)
		line, tainted := s.line, s.tainted
		s.line, s.tainted, s.telnet = nil, false, telnetNone
		s.yieldLine(line, tainted, yield)
		releaseLine(line)
	}
	return nil
}

// yieldLine calls yield for one line, which still has its carriage returns.
func (s *stream) yieldLine(line []byte, tainted bool, yield func([]byte, bool)) {
	if len(line) > maxLine+1 { // as much as appendLine keeps
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

// keep appends part of a line without its telnet commands. A line feed never
// gets here, so a telnet command cannot swallow a line end: where client and
// server may disagree on it, the shorter line is the safer reading.
func (s *stream) keep(part []byte) {
	if s.telnet == telnetNone {
		clean := bytes.IndexByte(part, telnetIAC)
		if clean < 0 {
			s.appendLine(part)
			return
		}
		s.appendLine(part[:clean])
		part = part[clean:]
	}
	for i := range part {
		ch := part[i]
		switch s.telnet {
		case telnetNone:
			if ch == telnetIAC {
				s.telnet = telnetCommand
			} else {
				s.appendLine(part[i : i+1])
			}
		case telnetCommand:
			switch {
			case ch == telnetIAC: // an escaped 255
				s.telnet = telnetNone
				s.appendLine(part[i : i+1])
			case ch >= telnetWILL:
				s.telnet = telnetOption
			case ch >= telnetSE:
				s.telnet = telnetNone
			default: // no telnet command: 255 was a letter of a file name
				s.telnet = telnetNone
				s.appendLine([]byte{telnetIAC, ch})
			}
		case telnetOption:
			s.telnet = telnetNone
		}
	}
	if s.line == nil {
		s.line = acquireLine() // so that the telnet state belongs to a line
	}
}

// appendLine adds to the incomplete line up to a little more than maxLine: the
// excess marks the line as too long, and the line end's CR must not be what
// does.
func (s *stream) appendLine(b []byte) {
	if s.line == nil {
		s.line = acquireLine()
	}
	room := maxLine + 1 - len(s.line)
	if len(b) > room {
		// One CR may be the excess: it is the begin of the line end, if the
		// line ends here.
		s.tainted = true
		b = b[:room]
	}
	if len(s.line)+len(b) > cap(s.line) {
		large := largeLines.Get().(*[maxLine + 1]byte)[:0]
		large = append(large, s.line...)
		releaseLine(s.line)
		s.line = large
	}
	s.line = append(s.line, b...)
}

// Buffers of incomplete lines. They are taken from a
// pool for as long as they are needed, so that an idle session has none.
const smallLine = 256

var (
	smallLines = sync.Pool{New: func() any { return new([smallLine]byte) }}
	largeLines = sync.Pool{New: func() any { return new([maxLine + 1]byte) }}
)

func acquireLine() []byte { return smallLines.Get().(*[smallLine]byte)[:0] }

func releaseLine(b []byte) {
	switch cap(b) {
	case smallLine:
		smallLines.Put((*[smallLine]byte)(b[:smallLine]))
	case maxLine + 1:
		largeLines.Put((*[maxLine + 1]byte)(b[:maxLine+1]))
	}
}

// dropLine forgets an incomplete line.
func (s *stream) dropLine() {
	if s.line != nil {
		releaseLine(s.line)
		s.line = nil
	}
	s.tainted, s.telnet = false, telnetNone
}

// buffered is the size in bytes of the buffers that s has taken.
func (s *stream) buffered() int {
	n := cap(s.line)
	if s.held != nil {
		n += maxHeld
	}
	return n
}
