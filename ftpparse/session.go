package ftpparse

// Direction tells the two sides of a control connection apart, in conntrack's terms.
type Direction uint8

// The directions.
const (
	DirOriginal Direction = iota // from the client
	DirReply                     // from the server
)

// Segment is one TCP segment of the control connection.
type Segment struct {
	Dir Direction
	// Seq is the sequence number of Payload's first byte.
	Seq uint32
	// Ack is the acknowledgment number, valid if HasAck is set. Bytes that the receiver
	// acknowledges and the Session has not seen are lost to it: they are not sent again.
	Ack    uint32
	HasAck bool
	// FIN occupies the sequence number behind Payload.
	FIN bool
	// Payload is only read during the call.
	Payload []byte
}

// Session reads one control connection. The zero value reads one that is picked up in
// the middle; [Session.Start] makes it read one from its first byte. It must not be
// copied after the first segment, and is not safe for concurrent use.
//
// It reads streams, not segments: the lines are the same however TCP cuts, repeats or
// reorders the bytes.
type Session struct {
	// LoginOptional announces PORT, EPRT and LPRT at once even while a login is under
	// way. Otherwise they wait for their own reply, which shows whether the login came
	// first. Start keeps it.
	LoginOptional bool

	lastVia  Via    // of the latest announcement
	lastPort uint16 // of the latest announcement

	// multi is the code of the multi-line reply that is being read, or 0; lostCode if
	// there may be one whose first line is lost.
	multi Code
	flags flags

	client, server stream

	queue queue
}

// lostCode stands for an unknown code: replies never have it.
const lostCode Code = 1

type flags uint32

const (
	fromStart     flags = 1 << iota // both directions were seen from their first byte
	greetingBegun                   // the server's first reply is a greeting
	greetingDone                    // the greeting is complete: replies to commands follow
	commandSeen                     // the client has sent an FTP command
	bannerSeen                      // the server's first line was not a greeting
	slipSeen                        // the client's first line was not an FTP command
	slipPending                     // the server has not replied to that line
	loggedIn                        // 230, 232 or 2xx to USER, PASS or ACCT
	loginLost                       // the reply that logged the session in may be lost
	clientGap                       // the client's stream had a gap
	serverGap                       // the server's stream had a gap since it last mentioned the login
	pairingUnsure                   // a reply may answer another command than the oldest pending one
	maybeText                       // the lines after a gap may be text of a multi-line reply
	endpointSeen                    // the client named an endpoint or asked for one, or may have
	outstanding                     // something was announced since the last transfer
	epsvAll                         // EPSV ALL was accepted
	notFTP                          // the connection does not carry FTP
)

// loginDoubt is cleared when the server next mentions the login.
const loginDoubt = loginLost | serverGap

// Start resets s to the begin of a connection whose handshake was seen. client and
// server are the sequence numbers of the first payload byte in each direction.
func (s *Session) Start(client, server uint32) {
	s.Release()
	*s = Session{flags: fromStart, LoginOptional: s.LoginOptional}
	s.server.mayNUL = true
	s.client.next, s.client.started = client, true
	s.server.next, s.server.started = server, true
}

// Release returns what s has taken from pools. Afterwards only Start may be called.
func (s *Session) Release() {
	s.queue.clear()
	s.queue.shrink()
	for _, st := range [...]*stream{&s.client, &s.server} {
		st.dropLine()
		st.dropHeld()
	}
}

// Buffered returns the size in bytes of the buffers that s holds for incomplete lines
// and for segments that arrived out of order. It leaves out the queue of pending
// commands, which takes 160 bytes more if the client pipelines.
func (s *Session) Buffered() int { return s.client.buffered() + s.server.buffered() }

// Next returns the sequence number of the first unread byte of a direction. ok is false
// until the direction has been seen.
func (s *Session) Next(dir Direction) (seq uint32, ok bool) {
	st := s.stream(dir)
	return st.next, st.started
}

// Finished reports whether a direction has ended: everything up to its FIN was read, and
// Next is behind the FIN. A FIN at a sequence number that was read already does not
// count, because its receiver drops it too.
func (s *Session) Finished(dir Direction) bool {
	st := s.stream(dir)
	return st.finRead && st.next == st.fin+1
}

func (s *Session) stream(dir Direction) *stream {
	if dir == DirReply {
		return &s.server
	}
	return &s.client
}

// Segment reads one segment and appends its events to dst. It does not allocate if dst
// has room for them.
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
	if g.FIN || from.finSeen {
		from.noteEnd(g)
	}
	if s.queue.backlog != nil && s.queue.length == 0 {
		s.queue.shrink()
	}
	return dst
}

// payload delivers bytes of a stream that begin at seq until all of them are read, held
// for later or useless.
func (s *Session) payload(dst []Event, st *stream, seq uint32, data []byte) []Event {
	if !st.started {
		dst = s.pickUp(dst, st, seq, data)
	}
	for s.flags&notFTP == 0 {
		if seq, data = st.unread(seq, data); len(data) == 0 {
			return dst
		}
		switch ahead := seq - st.next; {
		case ahead == 0:
			part := st.uncovered(data)
			st.next += uint32(len(part))
			dst = s.read(dst, st, part)
		case ahead > maxAhead, st.hold(seq, data):
			return dst
		default:
			// More than a window's worth is waiting: the missing bytes will not come.
			dst = s.gap(dst, st, st.firstHeld(seq))
		}
		if st.held != nil {
			dst = s.drain(dst, st)
		}
	}
	return dst
}

// pickUp starts to read a direction in the middle. Its first byte is taken for the
// begin of a line or of a TLS record.
func (s *Session) pickUp(dst []Event, st *stream, seq uint32, data []byte) []Event {
	st.next, st.started = seq, true
	if !beginsRecord(data) {
		return dst
	}
	if !s.opaque() {
		dst = append(dst, Event{Kind: Opaque, Reason: PickedUp})
	}
	st.mode = readTLS
	return dst
}

// drain reads the held segments that have become next in line.
func (s *Session) drain(dst []Event, st *stream) []Event {
	for st.held != nil && !seqLess(st.next, st.held.fragments[0].seq) {
		data := st.held.from(st.next)
		st.next += uint32(len(data))
		dst = s.read(dst, st, data)
		st.dropFragment()
	}
	return dst
}

// read reads the next bytes of a stream.
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

// opaque reports whether TLS makes either direction unreadable.
func (s *Session) opaque() bool {
	return s.client.mode >= readTLS || s.server.mode >= readTLS
}

// proven reports whether both sides have spoken FTP, as far as they were seen from their
// start. Nothing is announced before.
func (s *Session) proven() bool {
	return s.flags&fromStart == 0 || s.flags&(greetingDone|commandSeen|slipPending) == greetingDone|commandSeen
}

// markNotFTP stops reading both directions.
func (s *Session) markNotFTP(dst []Event, why Reason) []Event {
	s.flags |= notFTP
	s.client.mode, s.server.mode = readNothing, readNothing
	s.Release()
	return append(dst, Event{Kind: NotFTP, Reason: why})
}
