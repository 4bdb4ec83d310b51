package ftpparse

import "net/netip"

// longCommand is the length from which on a server may take one line for several: the
// smallest buffers in use have 256 bytes.
const longCommand = 250

// clientLine takes one line of the client.
func (s *Session) clientLine(dst []Event, line []byte, tainted bool) []Event {
	if len(line) == 0 {
		// vsftpd and ProFTPD pass over it in silence. Where a server answers it
		// all the same, one reply too many is soon forgotten, while a command that
		// waits for its reply for ever would shift all pairs behind it.
		s.flags |= pairingUnsure
		if tainted { // the end of a command whose begin is lost
			s.push(pending{verb: verbOther})
		}
		return dst
	}
	if tainted || len(line) > longCommand {
		s.flags |= pairingUnsure
	}
	if s.flags&(fromStart|commandSeen) == fromStart {
		if why := s.checkOpening(line, tainted); why != "" {
			return s.markNotFTP(dst, why)
		}
	}
	p := pending{verb: ParseCommand(line)}
	switch p.verb {
	case verbPORT, verbEPRT, verbLPRT:
		dst = s.activeCommand(dst, &p, line, tainted)
	case verbPASV, verbEPSV, verbLPSV:
		s.flags |= endpointSeen
		switch {
		case tainted:
			p.verb = verbOther
		case p.verb == verbEPSV && isAll(line):
			p.verb = verbEPSVAll
		}
	case verbTransfer:
		s.transfer(&p)
	}
	s.push(p)
	if s.forgotten >= maxUnanswered {
		return s.markNotFTP(dst, TooMany)
	}
	return dst
}

// checkOpening judges a line of a client that has said nothing in FTP yet. The reason is
// why it is not FTP, "" if it may be: one line that may be a slip is forgiven, once the
// server has refused it.
func (s *Session) checkOpening(line []byte, tainted bool) Reason {
	foreign := tainted || isForeign(line)
	switch {
	case s.flags&(bannerSeen|greetingBegun) == bannerSeen:
		return NoGreeting
	case !foreign && isVerb(line):
		s.flags |= commandSeen
	case s.flags&greetingBegun == 0:
		return NoGreeting
	case foreign || s.flags&slipSeen != 0 || !mayBeSlip(line):
		return NotAVerb
	default:
		s.flags |= slipSeen | slipPending
	}
	return ""
}

// activeCommand takes a PORT, EPRT or LPRT. One that comes before the login is announced with
// its own reply, if the login may come before that.
func (s *Session) activeCommand(dst []Event, p *pending, line []byte, tainted bool) []Event {
	s.flags |= endpointSeen
	via := p.verb.Via()
	endpoint, reason := via.Endpoint(line)
	if reason == "" {
		reason = s.announceReason(tainted)
	}
	if reason != "" {
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: reason})
	}
	p.port = endpoint.Port()
	if s.mustDefer() {
		s.wait(endpoint.Addr())
		return dst
	}
	p.via = via
	return s.announce(dst, via, endpoint)
}

// mustDefer reports whether the reply to a PORT, EPRT or LPRT decides whether it is
// announced.
func (s *Session) mustDefer() bool {
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
	return s.pends(verbUSER) || s.pends(verbPASS) || s.pends(verbACCT)
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
