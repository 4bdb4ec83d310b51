package ftpparse

import (
	"bytes"
	"sync"
)

// lineEnd ends a line; the carriage returns before it are optional.
const lineEnd = '\n'

// The bytes of telnet commands (RFC 854).
const (
	telnetIAC  = 255
	telnetWILL = 251
	telnetSE   = 240 // the lowest telnet command
)

// telnetState is where in a telnet command the last byte of a line is.
type telnetState uint8

const (
	telnetNone    telnetState = iota
	telnetCommand             // after IAC
	telnetOption              // after IAC WILL, WONT, DO or DONT
)

// smallLine is the size of most line buffers in bytes.
const smallLine = 256

// lineBuffer keeps the begin of an incomplete line, free of telnet commands. It is taken
// from a pool and returned when the line is complete, so that idle sessions have none.
type lineBuffer struct {
	text    []byte // in small, or in a large buffer
	telnet  telnetState
	tainted bool // the line is too long
	small   [smallLine]byte
}

// The large buffers have one byte more than a line may have, because a line that is not
// too long may end with a carriage return.
var (
	lineBuffers = sync.Pool{New: func() any { return new(lineBuffer) }}
	largeLines  = sync.Pool{New: func() any { return new([maxLine + 1]byte) }}
)

func newLineBuffer() *lineBuffer {
	l := lineBuffers.Get().(*lineBuffer)
	l.text, l.telnet, l.tainted = l.small[:0], telnetNone, false
	return l
}

// release returns l to its pool.
func (l *lineBuffer) release() {
	if cap(l.text) > smallLine {
		largeLines.Put((*[maxLine + 1]byte)(l.text[:maxLine+1]))
	}
	l.text = nil
	lineBuffers.Put(l)
}

// add appends part of a line without its telnet commands. A line feed never gets here,
// so a telnet command cannot swallow a line end: where client and server may disagree on
// it, the shorter line is the safer reading.
func (l *lineBuffer) add(part []byte) {
	if l.telnet == telnetNone {
		clean := bytes.IndexByte(part, telnetIAC)
		if clean < 0 {
			l.append(part)
			return
		}
		l.append(part[:clean])
		part = part[clean:]
	}
	for i := range part {
		l.addByte(part[i])
	}
}

// addByte appends one byte, unless it belongs to a telnet command.
func (l *lineBuffer) addByte(ch byte) {
	switch l.telnet {
	case telnetNone:
		if ch == telnetIAC {
			l.telnet = telnetCommand
		} else {
			l.append([]byte{ch})
		}
	case telnetCommand:
		l.telnet = telnetNone
		switch {
		case ch == telnetIAC: // an escaped 255
			l.append([]byte{ch})
		case ch >= telnetWILL:
			l.telnet = telnetOption
		case ch < telnetSE: // not a telnet command: 255 was a letter of a file name
			l.append([]byte{telnetIAC, ch})
		}
	case telnetOption:
		l.telnet = telnetNone
	}
}

// append adds bytes to the line. Those that a large buffer has no room for are dropped,
// and taint the line.
func (l *lineBuffer) append(b []byte) {
	if room := maxLine + 1 - len(l.text); len(b) > room {
		l.tainted = true
		b = b[:room]
	}
	if len(l.text)+len(b) > smallLine && cap(l.text) == smallLine {
		large := largeLines.Get().(*[maxLine + 1]byte)
		l.text = append(large[:0], l.text...)
	}
	l.text = append(l.text, b...)
}
