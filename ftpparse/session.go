package ftpparse

import "net/netip"

// Direction is the side of the control connection that sent a segment, in
// conntrack's words.
type Direction uint8

// The directions.
const (
	DirOriginal Direction = iota // from the client
	DirReply                     // from the server
)

// Segment is the payload of one TCP segment of the control connection.
type Segment struct {
	Dir Direction
	// Seq is the sequence number of Payload's first byte.
	Seq uint32
	// Ack is the acknowledgement number; it counts if HasAck is set. What a side
	// acknowledges has reached it: if it was not seen here, it never will be.
	Ack    uint32
	HasAck bool
	// FIN takes a sequence number behind Payload.
	FIN bool
	// Payload is borrowed for the call.
	Payload []byte
}

// Session reads one control connection. The zero value is a connection that is
// picked up in the middle; Start makes it one that is seen from its start. It
// is not safe for concurrent use.
//
// Streams, not segments, are what it reads: lines come out the same however TCP
// cut, repeated or reordered them.
type Session struct {
	// LoginOptional announces PORT, EPRT and LPRT at once while a login is under way.
	// Otherwise they wait for their own reply, which tells whether the login came
	// first. Start keeps it.
	LoginOptional bool

	// multi is the code of the multi-line reply that is not complete, or 0; lostCode if
	// there may be one whose first line is lost.
	multi Code
	flags flags

	client, server stream

	queue  [maxPending]pending
	head   uint8
	length uint8

	owed uint8 // final replies to transfers that a 227, 228 or 229 has overtaken

	lastVia  Via    // of the last endpoint that was announced
	lastPort uint16 // of the same

	forgotten uint32 // commands before those in queue that have no reply yet

	waiting netip.Addr // the address of those in queue that wait for their reply
}

// lostCode is no reply's.
const lostCode Code = 1

type flags uint32

const (
	fromStart     flags = 1 << iota // both directions were seen from their first byte
	greetingBegun                   // the server's first reply was a greeting
	greetingDone                    // the greeting is complete: what follows are replies to commands
	commandSeen                     // a command of FTP was read
	bannerSeen                      // the server's first line was no greeting
	slipSeen                        // the client's first line was no command of FTP
	slipPending                     // and has no reply yet
	loggedIn                        // 230, 232 or 2xx to USER, PASS or ACCT
	loginLost                       // the reply that logged the session in may be lost
	clientGap                       // the client's stream had a gap
	serverGap                       // the server's stream had one, since the last word on the login
	pairingUnsure                   // a reply may answer another command than the oldest pending one
	maybeText                       // what follows a gap may be text of a multi-line reply
	endpointSeen                    // the client has named an endpoint or asked for one, or may have
	outstanding                     // something was announced since the last transfer
	epsvAll                         // EPSV ALL was accepted
	notFTP
)

// loginDoubt are the doubts that the server's next word on the login removes.
const loginDoubt = loginLost | serverGap

// Start begins a new connection whose handshake was seen: client and server are
// the sequence numbers of the first payload byte of each direction.
func (s *Session) Start(client, server uint32) {
	s.Release()
	*s = Session{flags: fromStart, LoginOptional: s.LoginOptional}
	s.server.mayNUL = true
	s.client.next, s.client.started = client, true
	s.server.next, s.server.started = server, true
}

// Release gives back the buffers that s holds. The session must not be used
// afterwards, except through Start.
func (s *Session) Release() {
	for _, st := range [...]*stream{&s.client, &s.server} {
		st.dropLine()
		st.dropHeld()
	}
}

// Buffered is the size in bytes of the buffers that s holds besides itself: for
// incomplete lines and for segments that arrived out of order.
func (s *Session) Buffered() int { return s.client.buffered() + s.server.buffered() }

// Next is the sequence number of the first byte of a direction that was not read
// yet; ok is false as long as none has been seen.
func (s *Session) Next(dir Direction) (seq uint32, ok bool) {
	st := s.stream(dir)
	return st.next, st.started
}

// Finished reports whether a direction has ended: everything up to its FIN was
// read, and Next is behind the FIN. A FIN that came behind its place is none: its
// receiver drops it as well.
func (s *Session) Finished(dir Direction) bool {
	st := s.stream(dir)
	return st.ended && st.next == st.fin+1
}

func (s *Session) stream(dir Direction) *stream {
	if dir == DirReply {
		return &s.server
	}
	return &s.client
}

// opaque reports whether either direction cannot be read for TLS.
func (s *Session) opaque() bool {
	return s.client.mode >= readTLS || s.server.mode >= readTLS
}

// Segment reads one segment and appends to dst what it brought about. It
// allocates nothing if dst has room.
func (s *Session) Segment(dst []Event, g Segment) []Event {
	if s.flags&notFTP != 0 {
		return dst
	}
	from, to := &s.client, &s.server
	if g.Dir == DirReply {
		from, to = to, from
	}
	if g.HasAck {
		dst = s.acknowledged(dst, to, g.Ack)
	}
	if len(g.Payload) > 0 {
		dst = s.payload(dst, from, g.Seq, g.Payload)
	}
	end := g.Seq + uint32(len(g.Payload))
	switch {
	case g.FIN && !from.ended:
		from.fin, from.finished = end, true
	case len(g.Payload) > 0 && from.finished && seqLess(from.fin, end):
		from.finished = from.ended // bytes behind it: it was forged
	}
	if from.finished && !from.ended && from.started && from.next == from.fin {
		from.next++
		from.ended = true
	}
	return dst
}

// payload takes bytes of a stream wherever they belong, until they are read, held or
// of no use.
func (s *Session) payload(dst []Event, from *stream, seq uint32, data []byte) []Event {
	if !from.started {
		dst = s.pickUp(dst, from, seq, data)
	}
	for len(data) > 0 && s.flags&notFTP == 0 {
		if seqLess(seq, from.next) {
			// Each byte of the stream is read once: a retransmission that says
			// something else now, or begins in the middle of a line, has no effect
			// (VU#328867).
			behind := from.next - seq
			if behind >= uint32(len(data)) {
				return dst
			}
			seq, data = from.next, data[behind:]
		}
		if ahead := seq - from.next; ahead > maxAhead || ahead > 0 && from.hold(seq, data) {
			return dst
		} else if ahead > 0 {
			// More waits than a window's worth: what is missing will not come.
			dst = s.gap(dst, from, from.held.first(seq))
		} else {
			n := uint32(len(data))
			if h := from.held; h != nil { // what is held came first, and the first copy wins
				n = min(n, h.fragments[0].seq-seq)
			}
			from.next += n
			dst = s.read(dst, from, data[:n])
		}
		dst = s.drain(dst, from)
	}
	return dst
}

// pickUp begins to read a direction in the middle: what comes first is taken for the
// begin of a line, or of a TLS record.
func (s *Session) pickUp(dst []Event, from *stream, seq uint32, data []byte) []Event {
	from.next, from.started = seq, true
	if !beginsRecord(data) {
		return dst
	}
	opaque := s.opaque()
	from.mode = readTLS
	if !opaque {
		dst = append(dst, Event{Kind: Opaque, Reason: PickedUp})
	}
	return dst
}

// drain reads the held segments that have become next in line.
func (s *Session) drain(dst []Event, st *stream) []Event {
	h := st.held
	if h == nil {
		return dst
	}
	i := 0
	for ; i < h.n && !seqLess(st.next, h.fragments[i].seq); i++ {
		f := h.fragments[i]
		data := h.data[f.off : f.off+f.n]
		if behind := st.next - f.seq; behind < uint32(f.n) {
			st.next = f.seq + uint32(f.n)
			dst = s.read(dst, st, data[behind:])
			if st.held == nil { // not FTP after all: its buffers are gone
				return dst
			}
		}
	}
	copy(h.fragments[:], h.fragments[i:h.n])
	h.n -= i
	if h.n == 0 {
		st.dropHeld()
	}
	return dst
}

// read takes the next bytes of a stream.
func (s *Session) read(dst []Event, st *stream, data []byte) []Event {
	for len(data) > 0 && s.flags&notFTP == 0 {
		switch st.mode {
		case readLines, skipLine:
			data = st.lines(data, func(line []byte, tainted bool) {
				if st == &s.client {
					dst = s.clientLine(dst, line, tainted)
				} else {
					dst = s.serverLine(dst, line, tainted)
				}
			})
		case readTLS:
			if data = st.records(data); st.mode == readLines && !s.opaque() {
				dst = append(dst, Event{Kind: Cleared})
			}
		case readNothing:
			return dst
		}
	}
	return dst
}

// proven reports whether both sides have shown to speak FTP, as far as they were seen
// from their start. Nothing is announced before.
func (s *Session) proven() bool {
	return s.flags&fromStart == 0 || s.flags&(greetingDone|commandSeen|slipPending) == greetingDone|commandSeen
}

func (s *Session) markNotFTP(dst []Event, why Reason) []Event {
	s.flags |= notFTP
	s.client.mode, s.server.mode = readNothing, readNothing
	s.Release()
	return append(dst, Event{Kind: NotFTP, Reason: why})
}
