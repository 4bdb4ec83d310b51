package ftpparse

// longCommand is the length from which on a server may read one line as several: the
// smallest buffers in use have 256 bytes.
const longCommand = 250

// clientLine handles one line of the client.
func (s *Session) clientLine(dst []Event, line []byte, tainted bool) []Event {
	if len(line) == 0 {
		s.emptyLine(tainted)
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
		dst, p.via, p.port = s.activeCommand(dst, p.verb.Via(), line, tainted)
	case verbPASV, verbEPSV, verbLPSV:
		s.flags |= endpointSeen
		switch {
		case tainted:
			p.verb = verbOther
		case p.verb == verbEPSV && isAll(line):
			p.verb = verbEPSVAll
		}
	case verbTransfer:
		p.via, p.port = s.lastVia, s.lastPort
		if s.usesDefault() {
			p.via = DefaultPort
		}
	}
	s.queue.push(p)
	if s.queue.forgotten >= maxUnanswered {
		return s.markNotFTP(dst, TooMany)
	}
	return dst
}

// emptyLine handles an empty line, or the end of a command whose begin is lost if it is
// tainted.
//
// vsftpd and ProFTPD ignore an empty line. A server that answers it sends one reply too
// many, which is soon forgotten; a pending command that is never answered would shift
// all later pairs.
func (s *Session) emptyLine(tainted bool) {
	s.flags |= pairingUnsure
	if tainted {
		s.queue.push(pending{verb: verbOther})
	}
}

// checkOpening judges a line of a client that has not sent an FTP command yet. It
// returns the reason why this is not FTP, "" if it may be: one line that may be a slip
// is forgiven once the server has rejected it.
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

// activeCommand handles a PORT, EPRT or LPRT: it announces the endpoint, rejects it, or
// defers it to its reply. It returns the via and the port of the pending command.
func (s *Session) activeCommand(dst []Event, via Via, line []byte, tainted bool) ([]Event, Via, uint16) {
	s.flags |= endpointSeen
	endpoint, why := via.Endpoint(line)
	if why == "" {
		why = s.announceReason(tainted)
	}
	switch {
	case why != "":
		return append(dst, Event{Kind: Rejected, Via: via, Endpoint: endpoint, Reason: why}), ViaNone, 0
	case s.mustDefer():
		s.queue.deferTo(endpoint.Addr())
		return dst, ViaNone, endpoint.Port()
	default:
		return s.announce(dst, via, endpoint), via, endpoint.Port()
	}
}

// mustDefer reports whether a PORT, EPRT or LPRT is announced only when its reply
// accepts it: before both sides have spoken FTP, and while the reply to a login may
// still come before that.
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
	return s.queue.has(verbUSER) || s.queue.has(verbPASS) || s.queue.has(verbACCT)
}
