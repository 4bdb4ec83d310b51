package ftpparse

import "net/netip"

func (s *Session) announce(dst []Event, via Via, endpoint netip.AddrPort) []Event {
	s.flags |= outstanding
	s.lastVia, s.lastPort = via, endpoint.Port()
	return append(dst, Event{Kind: Announced, Via: via, Endpoint: endpoint, BeforeLogin: s.beforeLogin()})
}

// announceReason is the reason why no endpoint counts now, "" if it does.
func (s *Session) announceReason(tainted bool) Reason {
	switch {
	case tainted:
		return ControlChar
	case s.flags&epsvAll != 0:
		return EPSVAll
	default:
		return ""
	}
}

func (s *Session) beforeLogin() bool { return s.flags&(fromStart|loggedIn|loginLost) == fromStart }

// usesDefault reports whether nobody has said a word on where the data connection is:
// then it is between the default data ports, of which the client's is the one of its
// control connection (RFC 959 section 3.2).
func (s *Session) usesDefault() bool {
	return s.flags&(fromStart|loggedIn|endpointSeen) == fromStart|loggedIn && s.proven()
}

// transferEnded withdraws what was announced before the transfer command p, which has
// its final reply. What was announced behind it has its transfer yet to come: of the
// client's it is still in the queue, and of the server's it comes later.
func (s *Session) transferEnded(dst []Event, p pending) []Event {
	if s.flags&outstanding == 0 {
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
	s.flags &^= outstanding
	s.lastVia, s.lastPort = ViaNone, 0
	return append(dst, Event{Kind: Withdrawn, Reason: why})
}
