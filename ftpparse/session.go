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

// EventKind is what happened.
type EventKind uint8

// The kinds of events.
const (
	// Announced: an honest session opens a data connection to Endpoint next.
	Announced EventKind = iota + 1
	// Rejected: a line announced something that does not count, for Reason.
	Rejected
	// Withdrawn: what was announced is void. With a Via it is the one endpoint
	// with that Via and port, without it everything that is still unused.
	Withdrawn
	// Opaque: the session went into TLS and cannot be read.
	Opaque
	// Cleared: both directions are back in clear text.
	Cleared
	// NotFTP: this is no FTP session; nothing is read from it any more.
	NotFTP
	// Gap: bytes were lost, and with them the commands that were pending.
	Gap
)

// Event is what a Session has read.
type Event struct {
	Kind EventKind
	Via  Via
	// Endpoint is what the line named. Its address is invalid if the line named
	// none (229); after Rejected it may be the zero value.
	Endpoint netip.AddrPort
	Reason   Reason
	// BeforeLogin marks an Announced whose session has not logged in: the server
	// would refuse to transfer anything. It is never set where the login may
	// have gone unseen (picked up in the middle, TLS, a gap).
	BeforeLogin bool
}

// maxPending bounds the commands that wait for their reply. Clients pipeline a
// handful; beyond that what the oldest said is forgotten, but not that a reply to
// it is to come.
const maxPending = 32

// pending is a command that has no final reply yet.
type pending struct {
	verb Verb
	port uint16 // of PORT, EPRT and LPRT that were announced, else 0
}

// Session reads one control connection. The zero value is a connection that is
// picked up in the middle; Start makes it one that is seen from its start. It
// is not safe for concurrent use.
//
// Streams, not segments, are what it reads: lines come out the same however TCP
// cut, repeated or reordered them.
type Session struct {
	client, server stream

	queue  [maxPending]pending
	head   uint8
	length uint8

	forgotten uint32 // commands before those in queue that have no reply yet

	multi Code // code of the multi-line reply that is not complete, or 0
	flags flags
}

type flags uint8

const (
	fromStart  flags = 1 << iota // both directions were seen from their first byte
	greeted                      // the server spoke first, in FTP
	clientSeen                   // the client's first line was read and was FTP
	loggedIn                     // 230, 232 or 2xx to PASS or ACCT
	epsvAll                      // EPSV ALL was accepted
	notFTP
)

// Start begins a new connection whose handshake was seen: client and server are
// the sequence numbers of the first payload byte of each direction.
func (s *Session) Start(client, server uint32) {
	s.Release()
	*s = Session{flags: fromStart}
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

// NotFTP reports whether the connection was found to be none of FTP's.
func (s *Session) NotFTP() bool { return s.flags&notFTP != 0 }

// Opaque reports whether either direction cannot be read for TLS.
func (s *Session) Opaque() bool {
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
	if g.FIN && !from.ended {
		from.fin, from.finished = g.Seq+uint32(len(g.Payload)), true
	}
	if from.finished && !from.ended && from.started && from.next == from.fin {
		from.next++
		from.ended = true
	}
	return dst
}

// payload takes bytes of a stream wherever they belong.
func (s *Session) payload(dst []Event, from *stream, seq uint32, data []byte) []Event {
	if !from.started {
		// Picked up in the middle: what comes first is taken for the begin of a
		// line, or of a TLS record.
		from.next, from.started = seq, true
		if beginsRecord(data) {
			opaque := s.Opaque()
			from.mode = readTLS
			if !opaque {
				dst = append(dst, Event{Kind: Opaque, Reason: PickedUp})
			}
		}
	}
	if before(seq, from.next) {
		// Each byte of the stream is read once: a retransmission that says
		// something else now, or begins in the middle of a line, has no effect
		// (VU#328867).
		behind := from.next - seq
		if behind >= uint32(len(data)) {
			return dst
		}
		seq, data = from.next, data[behind:]
	}
	if ahead := seq - from.next; ahead > 0 {
		if ahead > maxAhead {
			return dst
		}
		if from.held == nil {
			from.held = heldBytes.Get().(*held)
		}
		if !from.held.add(seq, data) {
			// More waits than a window's worth: what is missing will not come.
			dst = s.gap(dst, from, from.held.first(seq))
			dst = s.drain(dst, from)
			if s.flags&notFTP != 0 {
				return dst
			}
			return s.payload(dst, from, seq, data)
		}
		return dst
	}
	if h := from.held; h != nil && h.frags[0].seq-seq < uint32(len(data)) {
		// What is held came first, and the first copy wins.
		n := h.frags[0].seq - seq
		from.next += n
		dst = s.drain(s.read(dst, from, data[:n]), from)
		if s.flags&notFTP != 0 {
			return dst
		}
		return s.payload(dst, from, seq+n, data[n:])
	}
	from.next += uint32(len(data))
	dst = s.read(dst, from, data)
	return s.drain(dst, from)
}

// acknowledged takes note that the receiver of st has everything before ack.
func (s *Session) acknowledged(dst []Event, st *stream, ack uint32) []Event {
	if !st.started {
		return dst
	}
	for s.flags&notFTP == 0 && before(st.next, ack) && ack-st.next <= maxAhead {
		to := ack
		if st.held != nil {
			to = st.held.first(ack)
		}
		dst = s.gap(dst, st, to)
		dst = s.drain(dst, st)
	}
	return dst
}

// gap gives up the bytes of st before to: reading resumes behind the next line
// end, and no reply is paired with a command from before. A gap before the
// connection has shown to be FTP leaves it unproven for good.
func (s *Session) gap(dst []Event, st *stream, to uint32) []Event {
	st.next = to
	st.dropLine()
	switch st.mode {
	case readLines:
		st.mode = skipLine
	case readTLS:
		st.mode = readNothing
	}
	s.length, s.forgotten, s.multi = 0, 0, 0
	dst = append(dst, Event{Kind: Gap})
	if s.flags&fromStart != 0 && s.flags&clientSeen == 0 {
		return s.isNotFTP(dst, NoGreeting)
	}
	// A login may have been among what was lost.
	s.flags &^= fromStart
	return dst
}

// drain reads the held segments that have become next in line.
func (s *Session) drain(dst []Event, st *stream) []Event {
	h := st.held
	if h == nil {
		return dst
	}
	i := 0
	for ; i < h.n && !before(st.next, h.frags[i].seq); i++ {
		f := h.frags[i]
		data := h.data[f.off : f.off+f.n]
		if behind := st.next - f.seq; behind < uint32(f.n) {
			st.next = f.seq + uint32(f.n)
			dst = s.read(dst, st, data[behind:])
			if st.held == nil { // not FTP after all: its buffers are gone
				return dst
			}
		}
	}
	copy(h.frags[:], h.frags[i:h.n])
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
			data = st.lines(data, func(line []byte, spoiled bool) {
				if st == &s.client {
					dst = s.command(dst, line, spoiled)
				} else {
					dst = s.reply(dst, line, spoiled)
				}
			})
		case readTLS:
			if data = st.records(data); st.mode == readLines && !s.Opaque() {
				dst = append(dst, Event{Kind: Cleared})
			}
		case readNothing:
			return dst
		}
	}
	return dst
}

// command takes one line of the client.
func (s *Session) command(dst []Event, line []byte, spoiled bool) []Event {
	if len(line) == 0 {
		// vsftpd and ProFTPD pass over it in silence. Where a server answers it
		// all the same, one reply too many is soon forgotten, while a command that
		// waits for its reply for ever would shift all pairs behind it.
		return dst
	}
	if s.flags&(fromStart|clientSeen) == fromStart {
		switch {
		case s.flags&greeted == 0:
			return s.isNotFTP(dst, NoGreeting)
		case spoiled || !isVerb(line):
			return s.isNotFTP(dst, NotAVerb)
		default:
			s.flags |= clientSeen
		}
	}
	verb := ParseCommand(line)
	if verb == VerbEPSV && isAll(line) {
		verb = verbEPSVAll
	}
	p := pending{verb: verb}
	if via := verb.Via(); via != ViaNone {
		endpoint, reason := via.Endpoint(line)
		if reason == "" {
			reason = s.mayAnnounce(spoiled)
		}
		if reason != "" {
			dst = append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: reason})
		} else {
			p.port = endpoint.Port()
			dst = append(dst, Event{Kind: Announced, Via: via, Endpoint: endpoint, BeforeLogin: s.beforeLogin()})
		}
	} else if spoiled && (verb == VerbPASV || verb == VerbEPSV || verb == VerbLPSV) {
		p.verb = VerbOther
	}
	s.push(p)
	return dst
}

// mayAnnounce is the reason why no endpoint counts now, "" if it does.
func (s *Session) mayAnnounce(spoiled bool) Reason {
	switch {
	case spoiled:
		return ControlChar
	case s.flags&epsvAll != 0:
		return EPSVAll
	default:
		return ""
	}
}

func (s *Session) beforeLogin() bool { return s.flags&(fromStart|loggedIn) == fromStart }

// reply takes one line of the server.
func (s *Session) reply(dst []Event, line []byte, spoiled bool) []Event {
	code, more := ParseReply(line)
	if s.multi != 0 {
		// Only the line with the same code and a blank ends it; what stands
		// between is text, whatever it looks like (VU#288905).
		if code != s.multi || more {
			return dst
		}
		s.multi = 0
	} else if code == 0 {
		return dst
	}
	if class := code / 100; class == 1 || class == 2 || class == 4 {
		s.flags |= greeted
	}
	if more {
		s.multi = code
		return dst
	}
	if code < 200 {
		return dst
	}
	if via := code.Via(); via != ViaNone {
		return s.passive(dst, via, line, spoiled)
	}
	return s.answered(dst, code)
}

// passive takes a 227, 228 or 229.
func (s *Session) passive(dst []Event, via Via, line []byte, spoiled bool) []Event {
	endpoint, reason := via.Endpoint(line)
	asked := VerbOther
	for i := range s.length {
		v := s.at(i).verb
		if v == VerbPASV && (via == R227 || via == R229) || v == VerbEPSV && via == R229 || v == VerbLPSV && via == R228 {
			asked = v
			s.drop(i + 1)
			break
		}
	}
	switch {
	case asked == VerbOther:
		reason = Unpaired
	case reason != "":
	default:
		reason = s.mayAnnounce(spoiled)
		if reason == EPSVAll && asked == VerbEPSV {
			reason = ""
		}
	}
	if reason != "" {
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: reason})
	}
	return append(dst, Event{Kind: Announced, Via: via, Endpoint: endpoint, BeforeLogin: s.beforeLogin()})
}

// answered pairs any other final reply with the command that it answers.
func (s *Session) answered(dst []Event, code Code) []Event {
	if code == 230 || code == 232 {
		s.flags |= loggedIn
	}
	if code == 225 || code == 226 {
		// ABOR may get one reply together with the transfer that it ends, or
		// one of its own (RFC 959 section 4.1.3): this one is the last.
		for i := range s.length {
			if s.at(i).verb == VerbABOR {
				s.drop(i + 1)
				return dst
			}
		}
	}
	if code == 234 || code == 334 {
		for i := range s.length {
			if s.at(i).verb == VerbAUTH {
				s.drop(i + 1)
				return s.authenticated(dst, code)
			}
		}
	}
	if s.forgotten > 0 {
		s.forgotten--
		return dst
	}
	if s.length == 0 {
		return dst
	}
	p := s.at(0)
	failed := code >= 400 && code < 600
	switch p.verb {
	case VerbPASV, VerbEPSV, VerbLPSV:
		if !failed {
			return dst // not its answer: servers say 226 out of turn
		}
	case VerbPORT, VerbEPRT, VerbLPRT:
		if failed && p.port != 0 {
			dst = append(dst, Event{Kind: Withdrawn, Via: p.verb.Via(), Endpoint: netip.AddrPortFrom(netip.Addr{}, p.port), Reason: Refused})
		}
	case VerbPASS, VerbACCT:
		if code/100 == 2 {
			s.flags |= loggedIn
		}
	case VerbUSER:
		if code == 331 || code == 332 {
			s.flags &^= loggedIn
		}
	case verbEPSVAll:
		if code/100 == 2 {
			s.flags |= epsvAll
		}
	case VerbREIN:
		if code/100 == 2 {
			s.flags &^= loggedIn | epsvAll
			dst = append(dst, Event{Kind: Withdrawn, Reason: Reinitialized})
		}
	case VerbQUIT:
		if code/100 == 2 {
			dst = append(dst, Event{Kind: Withdrawn, Reason: Quit})
		}
	}
	s.drop(1)
	return dst
}

// authenticated takes an accepted AUTH: the session starts anew, and after 234
// (RFC 4217 section 4) in TLS. What the client sent behind AUTH in clear text
// is void: the server reads it as TLS.
func (s *Session) authenticated(dst []Event, code Code) []Event {
	s.flags &^= loggedIn | epsvAll
	dst = append(dst, Event{Kind: Withdrawn, Reason: AuthAccepted})
	if code != 234 {
		return dst
	}
	s.length = 0
	for _, st := range [...]*stream{&s.client, &s.server} {
		st.dropLine()
		st.mode = readTLS
		st.tls = tlsFraming{}
	}
	// The login goes on inside TLS, out of sight.
	s.flags &^= fromStart
	return append(dst, Event{Kind: Opaque, Reason: AuthAccepted})
}

func (s *Session) isNotFTP(dst []Event, why Reason) []Event {
	s.flags |= notFTP
	s.client.mode, s.server.mode = readNothing, readNothing
	s.Release()
	return append(dst, Event{Kind: NotFTP, Reason: why})
}

// at is the i-th pending command, the oldest first.
func (s *Session) at(i uint8) pending { return s.queue[(s.head+i)%maxPending] }

// push adds a pending command; the oldest is forgotten when there are too many.
func (s *Session) push(p pending) {
	if s.length == maxPending {
		s.head = (s.head + 1) % maxPending
		s.length--
		s.forgotten++
	}
	s.queue[(s.head+s.length)%maxPending] = p
	s.length++
}

// drop removes the n oldest pending commands: they have their reply, and so has
// what came before them.
func (s *Session) drop(n uint8) {
	s.forgotten = 0
	s.head = (s.head + n) % maxPending
	s.length -= n
}
