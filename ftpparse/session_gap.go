package ftpparse

// acknowledged takes note that the receiver of st has everything before ack.
func (s *Session) acknowledged(dst []Event, st *stream, ack uint32) []Event {
	if !st.started {
		return dst
	}
	for s.flags&notFTP == 0 && seqLess(st.next, ack) && ack-st.next <= maxAhead {
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
		return s.markNotFTP(dst, NoGreeting)
	}
	// Commands or replies of an unknown number are lost.
	s.flags |= pairingUnsure | endpointSeen
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
	if s.multi == 0 && (s.flags&clientGap != 0 || s.forgotten > 0 || s.pends(verbText)) {
		s.multi = lostCode
	}
	if s.multi != 0 {
		s.flags |= maybeText
	}
	s.length, s.forgotten, s.owed = 0, 0, 0
}
