package ftpparse

import "net/netip"

// announce reports an endpoint that a data connection may now use.
func (s *Session) announce(dst []Event, via Via, endpoint netip.AddrPort) []Event {
	s.flags |= outstanding
	s.lastVia, s.lastPort = via, endpoint.Port()
	beforeLogin := s.flags&(fromStart|loggedIn|loginLost) == fromStart
	return append(dst, Event{Kind: Announced, Via: via, Endpoint: endpoint, BeforeLogin: beforeLogin})
}

// announceReason returns the reason why an endpoint cannot be announced now, "" if it
// can.
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

// usesDefault reports whether a transfer uses the default data ports, because neither
// side has named an endpoint or asked for one. The client's is then the port of its
// control connection (RFC 959 section 3.2).
func (s *Session) usesDefault() bool {
	return s.flags&(fromStart|loggedIn|endpointSeen) == fromStart|loggedIn && s.proven()
}

// endTransfer withdraws the announcements before the transfer command p, which has its
// final reply. Those behind it are for transfers to come: the client's are still in the
// queue, and the server's come later.
func (s *Session) endTransfer(dst []Event, p pending) []Event {
	if s.flags&outstanding == 0 {
		return dst
	}
	newer := false
	for i := range s.queue.length {
		if q := s.queue.at(i); q.announces() {
			newer = true
			if q.port == p.port && q.via.Active() == p.via.Active() {
				return dst
			}
		}
	}
	switch {
	case !newer:
		return s.withdrawAll(dst, TransferEnded)
	case p.via == ViaNone:
		return dst
	default:
		return append(dst, withdrawal(p.via, p.port, TransferEnded))
	}
}

// withdrawal is the event that withdraws one announcement.
func withdrawal(via Via, port uint16, why Reason) Event {
	return Event{Kind: Withdrawn, Via: via, Endpoint: netip.AddrPortFrom(netip.Addr{}, port), Reason: why}
}

// withdrawAll withdraws every announcement.
func (s *Session) withdrawAll(dst []Event, why Reason) []Event {
	s.flags &^= outstanding
	s.lastVia, s.lastPort = ViaNone, 0
	return append(dst, Event{Kind: Withdrawn, Reason: why})
}
