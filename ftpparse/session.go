package ftpparse

import (
	"math"
	"net/netip"
)

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
	// have gone unseen (picked up in the middle, TLS, a gap that may have held its
	// reply).
	BeforeLogin bool
}

// maxPending bounds the commands that wait for their reply. Clients pipeline a
// handful; beyond that what the oldest said is forgotten, but not that a reply to
// it is to come.
const maxPending = 32

// maxUnanswered bounds the commands that have no reply yet. Clients send a few hundred at
// once; who sends so many does not wait for replies, and has its lines read for nothing.
const maxUnanswered = 1 << 14

// pending is a command that has no final reply yet.
type pending struct {
	verb Verb
	// via and port are what the command announced: PORT, EPRT and LPRT their endpoint,
	// VerbTransfer the last one before it, or DefaultPort. A port without via is
	// announced when the reply accepts it.
	via  Via
	port uint16
}

// announces reports whether p stands for an endpoint that may be in use from p on.
func (p *pending) announces() bool { return p.via != ViaNone && p.verb != VerbTransfer }

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
	fromStart  flags = 1 << iota // both directions were seen from their first byte
	greeted                      // the server's first reply was a greeting
	welcomed                     // the greeting is complete: what follows are replies to commands
	clientSeen                   // a command of FTP was read
	babbled                      // the server's first line was no greeting
	slipped                      // the client's first line was no command of FTP
	onTrial                      // and has no reply yet
	loggedIn                     // 230, 232 or 2xx to USER, PASS or ACCT
	loginLost                    // the reply that logged the session in may be lost
	clientGap                    // the client's stream had a gap
	serverGap                    // the server's stream had one, since the last word on the login
	unsure                       // a reply may answer another command than the oldest pending one
	maybeText                    // what follows a gap may be text of a multi-line reply
	endpoints                    // the client has named an endpoint or asked for one, or may have
	standing                     // something was announced since the last transfer
	epsvAll                      // EPSV ALL was accepted
	notFTP
)

// loginDoubt are the doubts that the server's next word on the login removes.
const loginDoubt = loginLost | serverGap

// longCommand is the length from which on a server may take one line for several: the
// smallest buffers in use have 256 bytes.
const longCommand = 250

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
	end := g.Seq + uint32(len(g.Payload))
	switch {
	case g.FIN && !from.ended:
		from.fin, from.finished = end, true
	case len(g.Payload) > 0 && from.finished && before(from.fin, end):
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
		if ahead := seq - from.next; ahead > maxAhead || ahead > 0 && from.hold(seq, data) {
			return dst
		} else if ahead > 0 {
			// More waits than a window's worth: what is missing will not come.
			dst = s.gap(dst, from, from.held.first(seq))
		} else {
			n := uint32(len(data))
			if h := from.held; h != nil { // what is held came first, and the first copy wins
				n = min(n, h.frags[0].seq-seq)
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
	opaque := s.Opaque()
	from.mode = readTLS
	if !opaque {
		dst = append(dst, Event{Kind: Opaque, Reason: PickedUp})
	}
	return dst
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
// connection has shown to be FTP leaves it unproven for good. Either side can make a
// gap in what it sends, so it must gain nothing by that, and what the other side has
// said stands.
func (s *Session) gap(dst []Event, st *stream, to uint32) []Event {
	st.next = to
	st.dropLine()
	switch st.mode {
	case readLines:
		st.mode = skipLine
	case readTLS:
		st.mode = readNothing
	}
	dst = append(dst, Event{Kind: Gap})
	if !s.proven() {
		return s.isNotFTP(dst, NoGreeting)
	}
	// Commands or replies of an unknown number are lost.
	s.flags |= unsure | endpoints
	if st == &s.client {
		s.lostCommands()
	} else {
		s.lostReplies()
	}
	return dst
}

// lostCommands forgets the commands that are pending, but not that their replies are to
// come, ahead of all others.
func (s *Session) lostCommands() {
	s.flags |= clientGap
	s.forgotten += uint32(s.length)
	s.length = 0
	if s.flags&(serverGap|loggedIn) == serverGap {
		s.flags |= loginLost // command and reply, one with the other
	}
}

// lostReplies forgets the commands that are pending: nobody knows which replies are
// lost. A login that was under way may have succeeded. The lost bytes may have held
// the first or the last line of a multi-line reply; what follows may be its text then.
func (s *Session) lostReplies() {
	if s.flags&loggedIn == 0 {
		if s.flags&clientGap != 0 || s.loginPending() {
			s.flags |= loginLost
		}
		s.flags |= serverGap
	}
	if s.multi == 0 && (s.flags&clientGap != 0 || s.forgotten > 0 || s.pends(VerbText)) {
		s.multi = lostCode
	}
	if s.multi != 0 {
		s.flags |= maybeText
	}
	s.length, s.forgotten, s.owed = 0, 0, 0
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

// proven reports whether both sides have shown to speak FTP, as far as they were seen
// from their start. Nothing is announced before.
func (s *Session) proven() bool {
	return s.flags&fromStart == 0 || s.flags&(welcomed|clientSeen|onTrial) == welcomed|clientSeen
}

// command takes one line of the client.
func (s *Session) command(dst []Event, line []byte, spoiled bool) []Event {
	if len(line) == 0 {
		// vsftpd and ProFTPD pass over it in silence. Where a server answers it
		// all the same, one reply too many is soon forgotten, while a command that
		// waits for its reply for ever would shift all pairs behind it.
		s.flags |= unsure
		if spoiled { // the end of a command whose begin is lost
			s.push(pending{verb: VerbOther})
		}
		return dst
	}
	if spoiled || len(line) > longCommand {
		s.flags |= unsure
	}
	if s.flags&(fromStart|clientSeen) == fromStart {
		if why := s.opening(line, spoiled); why != "" {
			return s.isNotFTP(dst, why)
		}
	}
	p := pending{verb: ParseCommand(line)}
	switch p.verb {
	case VerbPORT, VerbEPRT, VerbLPRT:
		dst = s.active(dst, &p, line, spoiled)
	case VerbPASV, VerbEPSV, VerbLPSV:
		s.flags |= endpoints
		switch {
		case spoiled:
			p.verb = VerbOther
		case p.verb == VerbEPSV && isAll(line):
			p.verb = verbEPSVAll
		}
	case VerbTransfer:
		s.transfer(&p)
	}
	s.push(p)
	if s.forgotten >= maxUnanswered {
		return s.isNotFTP(dst, TooMany)
	}
	return dst
}

// opening judges a line of a client that has said nothing in FTP yet. The reason is
// why it is not FTP, "" if it may be: one line that may be a slip is forgiven, once the
// server has refused it.
func (s *Session) opening(line []byte, spoiled bool) Reason {
	foreign := spoiled || isForeign(line)
	switch {
	case s.flags&(babbled|greeted) == babbled:
		return NoGreeting
	case !foreign && isVerb(line):
		s.flags |= clientSeen
	case s.flags&greeted == 0:
		return NoGreeting
	case foreign || s.flags&slipped != 0 || !mayBeSlip(line):
		return NotAVerb
	default:
		s.flags |= slipped | onTrial
	}
	return ""
}

// active takes a PORT, EPRT or LPRT. One that comes before the login is announced with
// its own reply, if the login may come before that.
func (s *Session) active(dst []Event, p *pending, line []byte, spoiled bool) []Event {
	s.flags |= endpoints
	via := p.verb.Via()
	endpoint, reason := via.Endpoint(line)
	if reason == "" {
		reason = s.mayAnnounce(spoiled)
	}
	if reason != "" {
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: reason})
	}
	p.port = endpoint.Port()
	if s.mustWait() {
		s.wait(endpoint.Addr())
		return dst
	}
	p.via = via
	return s.announce(dst, via, endpoint)
}

// mustWait reports whether the reply to a PORT, EPRT or LPRT decides whether it is
// announced.
func (s *Session) mustWait() bool {
	switch {
	case !s.proven():
		return true
	case s.flags&(fromStart|loggedIn) != fromStart || s.LoginOptional:
		return false
	default:
		return s.flags&loginLost != 0 || s.loginPending()
	}
}

// loginPending reports whether the reply to a login may be under way.
func (s *Session) loginPending() bool {
	return s.pends(VerbUSER) || s.pends(VerbPASS) || s.pends(VerbACCT)
}

// wait notes the address of a command that waits for its reply. There is room for
// one, and a client has one: of two addresses the later counts.
func (s *Session) wait(addr netip.Addr) {
	if s.waiting != addr {
		for i := range s.length {
			if p := &s.queue[(s.head+i)%maxPending]; p.via == ViaNone {
				p.port = 0
			}
		}
	}
	s.waiting = addr
}

// transfer takes a command that uses the data connection.
func (s *Session) transfer(p *pending) {
	p.via, p.port = s.lastVia, s.lastPort
	if s.usesDefault() {
		p.via = DefaultPort
	}
}

// usesDefault reports whether nobody has said a word on where the data connection is:
// then it is between the default data ports, of which the client's is the one of its
// control connection (RFC 959 section 3.2).
func (s *Session) usesDefault() bool {
	return s.flags&(fromStart|loggedIn|endpoints) == fromStart|loggedIn && s.proven()
}

// preliminary takes a reply that says that more is to come. With it the server agrees to
// a transfer between the default data ports.
func (s *Session) preliminary(dst []Event) []Event {
	if s.length == 0 || s.forgotten > 0 || s.flags&standing != 0 || !s.usesDefault() {
		return dst
	}
	if p := s.at(0); p.verb != VerbTransfer || p.via != DefaultPort {
		return dst
	}
	return s.announce(dst, DefaultPort, netip.AddrPort{})
}

func (s *Session) announce(dst []Event, via Via, endpoint netip.AddrPort) []Event {
	s.flags |= standing
	s.lastVia, s.lastPort = via, endpoint.Port()
	return append(dst, Event{Kind: Announced, Via: via, Endpoint: endpoint, BeforeLogin: s.beforeLogin()})
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

func (s *Session) beforeLogin() bool { return s.flags&(fromStart|loggedIn|loginLost) == fromStart }

// reply takes one line of the server.
func (s *Session) reply(dst []Event, line []byte, spoiled bool) []Event {
	code, more := ParseReply(line)
	if s.multi != 0 {
		if !s.endsText(code, more) {
			return dst
		}
	} else if s.flags&(fromStart|greeted) == fromStart && !s.first(line, code) {
		return s.isNotFTP(dst, NoGreeting)
	}
	switch {
	case code == 0:
		return dst
	case more:
		s.multi = code
		return dst
	case code < 200:
		return s.preliminary(dst)
	case s.flags&(fromStart|welcomed) == fromStart:
		// The greeting answers no command, even if one has been sent already.
		if s.flags&greeted != 0 {
			s.flags |= welcomed
			if code == 230 || code == 232 { // a device without users
				s.logIn()
			}
		}
		return dst
	case s.flags&onTrial != 0:
		if code/100 != 5 {
			return s.isNotFTP(dst, NotAVerb)
		}
		s.flags &^= onTrial
	}
	if via := code.Via(); via != ViaNone {
		return s.passive(dst, via, line, spoiled)
	}
	return s.answered(dst, code)
}

// first takes the server's first reply and reports whether the session may be FTP.
func (s *Session) first(line []byte, code Code) bool {
	switch {
	case s.greets(code):
		s.flags |= greeted
	case len(line) > 0:
		s.flags |= babbled
		return s.flags&clientSeen == 0
	}
	return true
}

// greets reports whether code may begin a server's first reply. A client that has
// spoken already takes the word of a server that greets as RFC 959 section 5.4 has it.
func (s *Session) greets(code Code) bool {
	if s.flags&clientSeen != 0 {
		return code == 220 || code == 120
	}
	class := code / 100
	return (class == 1 || class == 2 || class == 4) && code.Via() == ViaNone
}

// endsText takes a line within a multi-line reply and reports whether it is the reply
// to a command. Only the line with the same code and a blank ends it; what stands
// between is text, whatever it looks like (VU#288905).
func (s *Session) endsText(code Code, more bool) bool {
	ends := code == s.multi && !more
	if !ends && !s.resumes(code, more) {
		return false
	}
	forgotten := ends && s.flags&maybeText != 0
	s.multi = 0
	s.flags &^= maybeText
	if forgotten { // the command that it answers was sent before the gap
		s.login(code)
	}
	return !forgotten
}

// resumes reports whether a line behind a gap ends the text that may be there: it is the
// reply to a command that was sent behind the gap. One that announces an endpoint does
// not, because text can look like that.
func (s *Session) resumes(code Code, more bool) bool {
	return s.flags&maybeText != 0 && !more && code >= 200 && code.Via() == ViaNone && s.length > 0
}

// passive takes a 227, 228 or 229.
func (s *Session) passive(dst []Event, via Via, line []byte, spoiled bool) []Event {
	endpoint, reason := via.Endpoint(line)
	asked := VerbOther
	for i := range s.length {
		if v := s.at(i).verb; v.answeredBy(via) {
			asked = v
			s.overtake(i)
			s.drop(i + 1)
			// It answers this command and no other, so whatever came before is settled.
			s.flags &^= clientGap | unsure
			break
		}
	}
	switch {
	case asked == VerbOther:
		reason = Unpaired
	case reason != "":
	default:
		reason = s.mayAnnounce(spoiled)
		if reason == EPSVAll && asked == VerbEPSV && via == R229 {
			reason = ""
		}
	}
	if reason != "" {
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: reason})
	}
	return s.announce(dst, via, endpoint)
}

// answeredBy reports whether via may be the answer to v. Servers are known to answer
// PASV with 229 and EPSV with 227.
func (v Verb) answeredBy(via Via) bool {
	switch via {
	case R227, R229:
		return v == VerbPASV || v == VerbEPSV
	case R228:
		return v == VerbLPSV
	default:
		return false
	}
}

// overtake notes the transfers among the n oldest commands: their replies are still to
// come, behind that of a later command.
func (s *Session) overtake(n uint8) {
	for i := range n {
		if s.at(i).verb == VerbTransfer && s.owed < math.MaxUint8 {
			s.owed++
		}
	}
}

// answered pairs any other final reply with the command that it answers.
func (s *Session) answered(dst []Event, code Code) []Event {
	s.login(code)
	switch code {
	case 225, 226:
		// ABOR may get one reply together with the transfer that it ends, or
		// one of its own (RFC 959 section 4.1.3): this one is the last.
		if n := s.through(VerbABOR); n > 0 {
			return s.aborted(dst, n)
		}
	case 234, 334:
		if n := s.through(VerbAUTH); n > 0 {
			s.drop(n)
			return s.authenticated(dst, code)
		}
	}
	if s.owed > 0 && (code == 225 || code == 226 || code == 426 || s.length > 0 && s.at(0).verb == VerbTransfer) {
		s.owed--
		return dst
	}
	if s.forgotten > 0 {
		s.forgotten--
		return dst
	}
	if s.length == 0 {
		return dst
	}
	p := s.at(0)
	if p.verb.leaves(code) {
		s.flags |= unsure
		return dst
	}
	s.drop(1)
	return s.settle(dst, p, code)
}

// leaves reports whether code, out of turn, cannot be the reply to v: servers send a
// second reply to a transfer that was cut short, and the client's next command is on
// its way.
func (v Verb) leaves(code Code) bool {
	switch code {
	case 225, 226:
		return v != VerbTransfer
	case 250:
		return v == VerbPASV || v == VerbEPSV || v == VerbLPSV
	default:
		return false
	}
}

// settle acts on the final reply to a command.
func (s *Session) settle(dst []Event, p pending, code Code) []Event {
	done := code/100 == 2
	failed := code/100 == 4 || code/100 == 5
	switch p.verb {
	case VerbPORT, VerbEPRT, VerbLPRT:
		return s.settleActive(dst, p, done, failed)
	case VerbTransfer:
		// Any other success is a reply out of turn, and 500 may be the reply to an
		// empty line.
		if failed && code != 500 || code == 225 || code == 226 || code == 250 {
			return s.transferred(dst, p)
		}
	case VerbUSER:
		// A device without passwords. 220 is a proxy's, whose host has greeted.
		if (code == 200 || code == 202) && s.flags&unsure == 0 {
			s.logIn()
		}
	case VerbPASS, VerbACCT:
		if done && s.flags&unsure == 0 {
			s.logIn()
		}
	case verbEPSVAll:
		if done {
			s.flags |= epsvAll
		}
	case VerbREIN:
		if done {
			s.flags &^= loggedIn | loginDoubt | epsvAll
			return s.withdraw(dst, Reinitialized)
		}
	case VerbQUIT:
		if done {
			return s.withdraw(dst, Quit)
		}
	}
	return dst
}

// settleActive acts on the reply to a PORT, EPRT or LPRT.
func (s *Session) settleActive(dst []Event, p pending, done, failed bool) []Event {
	via := p.verb.Via()
	e := Event{Via: via, Endpoint: netip.AddrPortFrom(netip.Addr{}, p.port), Reason: Refused}
	switch {
	case p.via != ViaNone && failed:
		e.Kind = Withdrawn
	case p.via != ViaNone || p.port == 0:
		return dst
	case done:
		return s.announce(dst, via, netip.AddrPortFrom(s.waiting, p.port))
	default:
		e.Kind, e.Endpoint = Rejected, netip.AddrPortFrom(s.waiting, p.port)
	}
	return append(dst, e)
}

// login takes what a reply says of the login, whichever command it answers: that the
// session is logged in, is not, or that another user is about to.
func (s *Session) login(code Code) {
	switch code {
	case 230, 232:
		// Nobody is logged in who has not asked: a server that says so has a reader in
		// mind, and no client.
		if s.flags&(fromStart|clientGap|serverGap|unsure|loginLost) != fromStart || s.forgotten > 0 || s.loginPending() {
			s.logIn()
		}
	case 331:
		s.flags &^= loggedIn | loginDoubt
	case 530:
		s.flags &^= loginDoubt
	}
}

func (s *Session) logIn() { s.flags = s.flags&^loginDoubt | loggedIn }

// aborted takes the reply to an ABOR, the last of the n oldest commands.
func (s *Session) aborted(dst []Event, n uint8) []Event {
	transfer := s.through(VerbTransfer)
	if transfer == 0 || transfer > n {
		s.drop(n)
		return dst
	}
	p := s.at(transfer - 1)
	s.drop(n)
	return s.transferred(dst, p)
}

// transferred withdraws what was announced before the transfer command p, which has
// its final reply. What was announced behind it has its transfer yet to come: of the
// client's it is still in the queue, and of the server's it comes later.
func (s *Session) transferred(dst []Event, p pending) []Event {
	if s.flags&standing == 0 {
		return dst
	}
	newer := false
	for i := range s.length {
		if q := s.at(i); q.announces() {
			newer = true
			if q.port == p.port && q.via.Active() == p.via.Active() {
				return dst
			}
		}
	}
	if !newer {
		return s.withdraw(dst, TransferEnded)
	}
	if p.via == ViaNone {
		return dst
	}
	return append(dst, Event{Kind: Withdrawn, Via: p.via, Endpoint: netip.AddrPortFrom(netip.Addr{}, p.port), Reason: TransferEnded})
}

// withdraw withdraws everything.
func (s *Session) withdraw(dst []Event, why Reason) []Event {
	s.flags &^= standing
	s.lastVia, s.lastPort = ViaNone, 0
	return append(dst, Event{Kind: Withdrawn, Reason: why})
}

// authenticated takes an accepted AUTH: the session starts anew, and after 234
// (RFC 4217 section 4) in TLS. What the client sent behind AUTH in clear text
// is void: the server reads it as TLS.
func (s *Session) authenticated(dst []Event, code Code) []Event {
	s.flags &^= loggedIn | loginDoubt | epsvAll
	dst = s.withdraw(dst, AuthAccepted)
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

// pends reports whether a command with verb v is pending.
func (s *Session) pends(v Verb) bool { return s.through(v) > 0 }

// through is the number of pending commands up to the oldest with verb v, 0 if there is
// none.
func (s *Session) through(v Verb) uint8 {
	for i := range s.length {
		if s.at(i).verb == v {
			return i + 1
		}
	}
	return 0
}

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
