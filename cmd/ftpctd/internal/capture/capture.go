package capture

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// maxFrame is the maximum length of a frame, in bytes. It is libpcap's
// MAXIMUM_SNAPLEN; a record that claims more is corrupt.
const maxFrame = 256 << 10

// The reasons why reading a file ends. They are wrapped in an [Error].
var (
	// ErrFormat is a file that is neither a pcap nor a pcapng capture.
	ErrFormat = errors.New("unrecognized format: not pcap or pcapng")
	// ErrCorrupt is a record whose own fields contradict each other.
	ErrCorrupt = errors.New("corrupt")
	// ErrLinkType is a capture none of whose frames are of a link type that
	// this package reads.
	ErrLinkType = errors.New("no frame of a supported link type")

	errCut = fmt.Errorf("truncated record: %w", io.ErrUnexpectedEOF)
)

// An Error is where and why reading a capture ended.
type Error struct {
	// File is the name of the capture.
	File string
	// Frame is the number of the frame that could not be read, counted from 1
	// as Wireshark does. It is 0 where the error concerns the whole file.
	Frame int
	// Offset is where the record begins, in bytes from the start of the
	// uncompressed capture.
	Offset int64
	// Err is the reason: it wraps [ErrFormat], [ErrCorrupt], [ErrLinkType],
	// [io.ErrUnexpectedEOF] or the error of the underlying reader.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Frame == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s: frame %d, at byte %d: %v", e.File, e.Frame, e.Offset, e.Err)
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// A record is one frame as the file holds it. The data is valid until the next
// record is read.
type record struct {
	ts   time.Time
	link linkType
	data []byte
}

// A format reads the records of one file format. It returns io.EOF only at the
// end of a whole record.
type format interface {
	next() (record, error)
}

// A Reader returns the IP packets of a capture in the order of the file. It is not
// safe for concurrent use.
type Reader struct {
	name    string
	closer  io.Closer
	src     *source
	records format
	frame   int
	skipped int
	foreign int
	link    linkType // of the last foreign frame
	err     error
}

// Open opens the capture file at path. The caller must close the Reader. A file
// that cannot be opened gives an [*os.PathError], one that is not a capture an
// [*Error].
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(path, f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	r.closer = f
	return r, nil
}

// NewReader reads a capture from rd; name stands for it in errors. It reads the
// file header at once.
func NewReader(name string, rd io.Reader) (*Reader, error) {
	r := &Reader{name: name, src: &source{br: bufio.NewReaderSize(rd, 64<<10)}}
	var err error
	if r.records, err = r.src.detect(); err != nil {
		return nil, &Error{File: name, Err: err}
	}
	return r, nil
}

// Close closes the file that Open opened.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// Frame returns the number of the frame that the last packet came in, counted
// from 1 as Wireshark does. It is 0 before the first call of Next. At the end
// of the file it is the number of frames read.
func (r *Reader) Frame() int { return r.frame }

// Skipped returns how many frames so far held no IP packet, or came from an
// interface whose link type is not known.
func (r *Reader) Skipped() int { return r.skipped }

// Next returns the next IP packet, from the first byte of its IPv4 or IPv6
// header, and the time it was captured at. Frames without one are skipped and
// counted. What the link layer padded is removed, as the kernel does before a
// packet meets its hooks; a packet that the snapshot length cut is returned as far
// as it goes. The time is the zero Time where the file records none (pcapng's
// simple packets). The packet is valid until the following call.
//
// At the end of the file the error is io.EOF. Any other error is an [*Error];
// nothing can be read after it, and every further call returns it again.
func (r *Reader) Next() (ts time.Time, ip []byte, err error) {
	for r.err == nil {
		rec, err := r.records.next()
		if err != nil {
			r.err = r.end(err)
			break
		}
		r.frame++
		if !rec.link.known() {
			r.foreign++
			r.link = rec.link
		}
		if ip := rec.link.packet(rec.data); ip != nil {
			return rec.ts, ip, nil
		}
		r.skipped++
	}
	return time.Time{}, nil, r.err
}

// end returns the error that Next reports for the one that ended the reading.
func (r *Reader) end(err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return &Error{File: r.name, Frame: r.frame + 1, Offset: r.src.start, Err: err}
	case r.foreign > 0 && r.foreign == r.frame:
		return &Error{File: r.name, Err: fmt.Errorf("%w: link type %d (supported: %s)", ErrLinkType, r.link, knownLinks)}
	default:
		return io.EOF
	}
}

// A source is a stream that counts the bytes read.
type source struct {
	br    *bufio.Reader
	off   int64
	start int64 // offset of the current record
}

// detect looks for compression and returns the reader of the file's format.
func (s *source) detect() (format, error) {
	magic, err := s.br.Peek(2)
	if err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		zr, err := gzip.NewReader(s.br)
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", cut(err))
		}
		s.br = bufio.NewReaderSize(zr, 64<<10)
	}
	switch magic, err = s.br.Peek(4); {
	case errors.Is(err, io.EOF) && len(magic) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrFormat)
	case errors.Is(err, io.EOF):
		return nil, ErrFormat
	case err != nil:
		return nil, err
	}
	if [4]byte(magic) == pcapngMagic {
		return newPcapng(s)
	}
	return newPcap(s)
}

// begin marks the start of a record.
func (s *source) begin() { s.start = s.off }

// full fills b. The error is io.EOF only where nothing of a record was read.
func (s *source) full(b []byte) error {
	n, err := io.ReadFull(s.br, b)
	s.off += int64(n)
	if errors.Is(err, io.EOF) && s.off == s.start {
		return io.EOF
	}
	return cut(err)
}

// skip reads over n bytes.
func (s *source) skip(n int) error {
	n, err := s.br.Discard(n)
	s.off += int64(n)
	return cut(err)
}

// cut turns the end of the file inside a record into errCut.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}

// frame reads n bytes of captured data into buf, which grows as needed.
func (s *source) frame(buf []byte, n uint32) ([]byte, error) {
	if n > maxFrame {
		return buf, fmt.Errorf("%w: a frame of %d bytes, more than %d", ErrCorrupt, n, maxFrame)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	return buf, s.full(buf)
}
