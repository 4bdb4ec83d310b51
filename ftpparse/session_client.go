package ftpparse

import "net/netip"

// longCommand is the length from which on a server may take one line for several: the
// smallest buffers in use have 256 bytes.
const longCommand = 250

// command takes one line of the client.
func (s *Session) command(dst []Event, line []byte, spoiled bool) []Event {
	if len(line) == 0 {
		// vsftpd and ProFTPD pass over it in silence. Where a server answers it
		// all the same, one reply too many is soon forgotten, while a command that
		// waits for its reply for ever would shift all pairs behind it.
		s.flags |= unsure
		if spoiled { // the end of a command whose begin is lost
			s.push(pending{verb: verbOther})
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
	case verbPORT, verbEPRT, verbLPRT:
		dst = s.active(dst, &p, line, spoiled)
	case verbPASV, verbEPSV, verbLPSV:
		s.flags |= endpoints
		switch {
		case spoiled:
			p.verb = verbOther
		case p.verb == verbEPSV && isAll(line):
			p.verb = verbEPSVAll
		}
	case verbTransfer:
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
