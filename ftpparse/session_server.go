package ftpparse

import (
	"math"
	"net/netip"
)

// serverLine takes one line of the server.
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
		// The greeting answers no command, even if one has been sent already.
		if s.flags&greetingBegun != 0 {
			s.flags |= greetingDone
			if code == 230 || code == 232 { // a device without users
				s.logIn()
			}
		}
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

// checkGreeting takes the server's first reply and reports whether the session may be FTP.
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

// greets reports whether code may begin a server's first reply. A client that has
// spoken already takes the word of a server that greets as RFC 959 section 5.4 has it.
func (s *Session) greets(code Code) bool {
	if s.flags&commandSeen != 0 {
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
		s.noteLogin(code)
	}
	return !forgotten
}

// resumes reports whether a line behind a gap ends the text that may be there: it is the
// reply to a command that was sent behind the gap. One that announces an endpoint does
// not, because text can look like that.
func (s *Session) resumes(code Code, more bool) bool {
	return s.flags&maybeText != 0 && !more && code >= 200 && code.Via() == ViaNone && s.length > 0
}

// preliminaryReply takes a reply that says that more is to come. With it the server agrees to
// a transfer between the default data ports.
func (s *Session) preliminaryReply(dst []Event) []Event {
	if s.length == 0 || s.forgotten > 0 || s.flags&outstanding != 0 || !s.usesDefault() {
		return dst
	}
	if p := s.at(0); p.verb != verbTransfer || p.via != DefaultPort {
		return dst
	}
	return s.announce(dst, DefaultPort, netip.AddrPort{})
}

// passiveReply takes a 227, 228 or 229.
func (s *Session) passiveReply(dst []Event, via Via, line []byte, tainted bool) []Event {
	endpoint, reason := via.Endpoint(line)
	asked := verbOther
	for i := range s.length {
		if v := s.at(i).verb; v.answeredBy(via) {
			asked = v
			s.overtake(i)
			s.drop(i + 1)
			// It answers this command and no other, so whatever came before is settled.
			s.flags &^= clientGap | pairingUnsure
			break
		}
	}
	switch {
	case asked == verbOther:
		reason = Unpaired
	case reason != "":
	default:
		reason = s.announceReason(tainted)
		if reason == EPSVAll && asked == verbEPSV && via == R229 {
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
		return v == verbPASV || v == verbEPSV
	case R228:
		return v == verbLPSV
	default:
		return false
	}
}

// overtake notes the transfers among the n oldest commands: their replies are still to
// come, behind that of a later command.
func (s *Session) overtake(n uint8) {
	for i := range n {
		if s.at(i).verb == verbTransfer && s.owed < math.MaxUint8 {
			s.owed++
		}
	}
}

// finalReply pairs any other final reply with the command that it answers.
func (s *Session) finalReply(dst []Event, code Code) []Event {
	s.noteLogin(code)
	switch code {
	case 225, 226:
		// ABOR may get one reply together with the transfer that it ends, or
		// one of its own (RFC 959 section 4.1.3): this one is the last.
		if n := s.through(verbABOR); n > 0 {
			return s.abortReply(dst, n)
		}
	case 234, 334:
		if n := s.through(verbAUTH); n > 0 {
			s.drop(n)
			return s.authAccepted(dst, code)
		}
	}
	if s.owed > 0 && (code == 225 || code == 226 || code == 426 || s.length > 0 && s.at(0).verb == verbTransfer) {
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
	if p.verb.outOfTurn(code) {
		s.flags |= pairingUnsure
		return dst
	}
	s.drop(1)
	return s.settle(dst, p, code)
}

// outOfTurn reports whether code, out of turn, cannot be the reply to v: servers send a
// second reply to a transfer that was cut short, and the client's next command is on
// its way.
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

// settle acts on the final reply to a command.
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
			return s.transferEnded(dst, p)
		}
	case verbUSER:
		// A device without passwords. 220 is a proxy's, whose host has greetingBegun.
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
			s.flags &^= loggedIn | loginDoubt | epsvAll
			return s.withdraw(dst, Reinitialized)
		}
	case verbQUIT:
		if done {
			return s.withdraw(dst, Quit)
		}
	}
	return dst
}

// settleActive acts on the reply to a PORT, EPRT or LPRT.
func (s *Session) settleActive(dst []Event, p pending, done, failed bool) []Event {
	via := p.verb.Via()
	e := Event{Via: via, Endpoint: netip.AddrPortFrom(netip.Addr{}, p.port), Reason: ServerRefused}
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

// noteLogin takes what a reply says of the login, whichever command it answers: that the
// session is logged in, is not, or that another user is about to.
func (s *Session) noteLogin(code Code) {
	switch code {
	case 230, 232:
		// Nobody is logged in who has not asked: a server that says so has a reader in
		// mind, and no client.
		if s.flags&(fromStart|clientGap|serverGap|pairingUnsure|loginLost) != fromStart || s.forgotten > 0 || s.loginPending() {
			s.logIn()
		}
	case 331:
		s.flags &^= loggedIn | loginDoubt
	case 530:
		s.flags &^= loginDoubt
	}
}

func (s *Session) logIn() { s.flags = s.flags&^loginDoubt | loggedIn }

// abortReply takes the reply to an ABOR, the last of the n oldest commands.
func (s *Session) abortReply(dst []Event, n uint8) []Event {
	transfer := s.through(verbTransfer)
	if transfer == 0 || transfer > n {
		s.drop(n)
		return dst
	}
	p := s.at(transfer - 1)
	s.drop(n)
	return s.transferEnded(dst, p)
}

// authAccepted takes an accepted AUTH: the session starts anew, and after 234
// (RFC 4217 section 4) in TLS. What the client sent behind AUTH in clear text
// is void: the server reads it as TLS.
func (s *Session) authAccepted(dst []Event, code Code) []Event {
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
