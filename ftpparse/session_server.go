package ftpparse

import "net/netip"

// serverLine handles one line of the server.
func (s *Session) serverLine(dst []Event, line []byte, tainted bool) []Event {
	code, more := ParseReply(line)
	if s.multi != 0 {
		if !s.endsText(code, more) {
			return dst
		}
	} else if s.flags&(fromStart|greetingBegun) == fromStart && !s.checkGreeting(line, code) {
		return s.markNotFTP(dst, NoGreeting)
	}
	switch {
	case code == 0:
		return dst
	case more:
		s.multi = code
		return dst
	case code < 200:
		return s.preliminaryReply(dst)
	case s.flags&(fromStart|greetingDone) == fromStart:
		s.completeGreeting(code)
		return dst
	case s.flags&slipPending != 0:
		if code/100 != 5 {
			return s.markNotFTP(dst, NotAVerb)
		}
		s.flags &^= slipPending
	}
	if via := code.Via(); via != ViaNone {
		return s.passiveReply(dst, via, line, tainted)
	}
	return s.finalReply(dst, code)
}

// checkGreeting handles the server's first reply and the lines before it. It reports
// whether the session may still be FTP.
func (s *Session) checkGreeting(line []byte, code Code) bool {
	switch {
	case s.greets(code):
		s.flags |= greetingBegun
	case len(line) > 0:
		s.flags |= bannerSeen
		return s.flags&commandSeen == 0
	}
	return true
}

// greets reports whether code may begin a server's first reply. If the client has spoken
// before, only the greetings of RFC 959 section 5.4 count.
func (s *Session) greets(code Code) bool {
	if s.flags&commandSeen != 0 {
		return code == 220 || code == 120
	}
	class := code / 100
	return (class == 1 || class == 2 || class == 4) && code.Via() == ViaNone
}

// completeGreeting handles the final line of the greeting. It is no reply to a command,
// even if the client has sent one already.
func (s *Session) completeGreeting(code Code) {
	if s.flags&greetingBegun == 0 {
		return
	}
	s.flags |= greetingDone
	if code == 230 || code == 232 { // a device without users
		s.logIn()
	}
}

// endsText handles a line within a multi-line reply and reports whether it is the reply
// to a pending command. Only a line with the same code and a blank ends the text, which
// may look like any reply (VU#288905).
func (s *Session) endsText(code Code, more bool) bool {
	ends := code == s.multi && !more
	if !ends && !s.resumes(code, more) {
		return false
	}
	// The command was sent before the gap, and is no longer pending.
	forgotten := ends && s.flags&maybeText != 0
	s.multi = 0
	s.flags &^= maybeText
	if forgotten {
		s.noteLogin(code)
	}
	return !forgotten
}

// resumes reports whether a line after a gap is no text of a multi-line reply but the
// reply to a command that was sent after the gap. A line that names an endpoint is not
// trusted to be, because text can look like that.
func (s *Session) resumes(code Code, more bool) bool {
	return s.flags&maybeText != 0 && !more && code >= 200 && code.Via() == ViaNone && s.queue.length > 0
}

// preliminaryReply handles a 1xx reply. With it the server agrees to a transfer between
// the default data ports.
func (s *Session) preliminaryReply(dst []Event) []Event {
	if s.queue.length == 0 || s.queue.forgotten > 0 || s.flags&outstanding != 0 || !s.usesDefault() {
		return dst
	}
	if p := s.queue.at(0); p.verb != verbTransfer || p.via != DefaultPort {
		return dst
	}
	return s.announce(dst, DefaultPort, netip.AddrPort{})
}

// passiveReply handles a 227, 228 or 229.
func (s *Session) passiveReply(dst []Event, via Via, line []byte, tainted bool) []Event {
	endpoint, why := via.Endpoint(line)
	asked := verbOther
	if n := s.queue.throughAsking(via); n > 0 {
		asked = s.queue.at(n - 1).verb
		s.queue.overtake(n - 1)
		s.queue.drop(n)
		// It answers this command and no other: the pairing is certain again.
		s.flags &^= clientGap | pairingUnsure
	}
	switch {
	case asked == verbOther:
		why = Unpaired
	case why == "":
		why = s.announceReason(tainted)
		if why == EPSVAll && asked == verbEPSV && via == R229 {
			why = ""
		}
	}
	if why != "" {
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: why})
	}
	return s.announce(dst, via, endpoint)
}

// finalReply pairs any other final reply with the command that it answers.
func (s *Session) finalReply(dst []Event, code Code) []Event {
	s.noteLogin(code)
	switch code {
	case 225, 226:
		// ABOR gets one reply together with the transfer that it ends, or its own
		// (RFC 959 section 4.1.3): this one is the last.
		if n := s.queue.through(verbABOR); n > 0 {
			return s.abortReply(dst, n)
		}
	case 234, 334:
		if n := s.queue.through(verbAUTH); n > 0 {
			s.queue.drop(n)
			return s.authAccepted(dst, code)
		}
	}
	if s.queue.answersEarlier(code) || s.queue.length == 0 {
		return dst
	}
	p := s.queue.at(0)
	if p.verb.outOfTurn(code) {
		s.flags |= pairingUnsure
		return dst
	}
	s.queue.drop(1)
	return s.settle(dst, p, code)
}

// outOfTurn reports whether code cannot be the reply to v. Servers send a second reply
// to a transfer that was cut short, when the client's next command is already on its
// way.
func (v Verb) outOfTurn(code Code) bool {
	switch code {
	case 225, 226:
		return v != verbTransfer
	case 250:
		return v == verbPASV || v == verbEPSV || v == verbLPSV
	default:
		return false
	}
}

// settle acts on the final reply to the command p.
func (s *Session) settle(dst []Event, p pending, code Code) []Event {
	done := code/100 == 2
	failed := code/100 == 4 || code/100 == 5
	switch p.verb {
	case verbPORT, verbEPRT, verbLPRT:
		return s.settleActive(dst, p, done, failed)
	case verbTransfer:
		// Any other success is a reply out of turn, and 500 may be the reply to an
		// empty line.
		if failed && code != 500 || code == 225 || code == 226 || code == 250 {
			return s.endTransfer(dst, p)
		}
	case verbUSER:
		// 200 and 202 come from a device without passwords. 220 does not count: it is
		// the greeting of the host behind a proxy.
		if (code == 200 || code == 202) && s.flags&pairingUnsure == 0 {
			s.logIn()
		}
	case verbPASS, verbACCT:
		if done && s.flags&pairingUnsure == 0 {
			s.logIn()
		}
	case verbEPSVAll:
		if done {
			s.flags |= epsvAll
		}
	case verbREIN:
		if done {
			return s.reset(dst, Reinitialized)
		}
	case verbQUIT:
		if done {
			return s.withdrawAll(dst, Quit)
		}
	}
	return dst
}

// settleActive acts on the reply to a PORT, EPRT or LPRT.
func (s *Session) settleActive(dst []Event, p pending, done, failed bool) []Event {
	via := p.verb.Via()
	if announced := p.via != ViaNone; announced || p.port == 0 {
		if announced && failed {
			dst = append(dst, withdrawal(via, p.port, ServerRefused))
		}
		return dst
	}
	endpoint := netip.AddrPortFrom(s.queue.deferredAddr(), p.port)
	if done {
		return s.announce(dst, via, endpoint)
	}
	return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: ServerRefused})
}

// abortReply handles the reply to an ABOR, the last of the n oldest commands. It ends
// the transfer before the ABOR too, if there is one.
func (s *Session) abortReply(dst []Event, n uint8) []Event {
	transfer := s.queue.through(verbTransfer)
	if transfer == 0 || transfer > n {
		s.queue.drop(n)
		return dst
	}
	p := s.queue.at(transfer - 1)
	s.queue.drop(n)
	return s.endTransfer(dst, p)
}

// authAccepted handles an accepted AUTH, which resets the session and, with 234
// (RFC 4217 section 4), switches it to TLS. Clear text that the client sent behind AUTH
// is void: the server reads it as TLS.
func (s *Session) authAccepted(dst []Event, code Code) []Event {
	dst = s.reset(dst, AuthAccepted)
	if code != 234 {
		return dst
	}
	s.queue.length = 0
	for _, st := range [...]*stream{&s.client, &s.server} {
		st.dropLine()
		st.mode = readTLS
		st.tls = tlsFraming{}
	}
	// The login goes on inside TLS, unseen.
	s.flags &^= fromStart
	return append(dst, Event{Kind: Opaque, Reason: AuthAccepted})
}

// reset returns the session to the state before the login.
func (s *Session) reset(dst []Event, why Reason) []Event {
	s.flags &^= loggedIn | loginDoubt | epsvAll
	return s.withdrawAll(dst, why)
}

// noteLogin notes what a reply reveals about the login, whichever command it answers:
// that the session is logged in or not, or that another user is about to log in.
func (s *Session) noteLogin(code Code) {
	switch code {
	case 230, 232:
		// Without a login under way nobody logs in: such a server means to deceive a
		// reader like this one, not its client.
		if s.flags&(fromStart|clientGap|serverGap|pairingUnsure|loginLost) != fromStart || s.queue.forgotten > 0 || s.loginPending() {
			s.logIn()
		}
	case 331:
		s.flags &^= loggedIn | loginDoubt
	case 530:
		s.flags &^= loginDoubt
	}
}

// logIn notes that the session is logged in, beyond doubt.
func (s *Session) logIn() { s.flags = s.flags&^loginDoubt | loggedIn }
