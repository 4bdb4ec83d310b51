package ftpparse

// acknowledged handles the acknowledgment of everything before ack by the receiver of
// st: what is missing of that is lost.
func (s *Session) acknowledged(dst []Event, st *stream, ack uint32) []Event {
	if !st.started {
		return dst
	}
	for s.flags&notFTP == 0 && seqLess(st.next, ack) && ack-st.next <= maxAhead {
		dst = s.gap(dst, st, st.firstHeld(ack))
		dst = s.drain(dst, st)
	}
	return dst
}

// gap gives up the bytes of st before to. Reading resumes after the next line end, and
// commands from before are not paired with replies. Before both sides have spoken FTP, a
// gap ends the session, which could never be proven.
//
// Either side can make a gap in what it sends. It must gain nothing by that, and cannot
// undo what the other side has said.
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
		s.loseCommands()
	} else {
		s.loseReplies()
	}
	return dst
}

// loseCommands forgets the pending commands after a gap of the client. Their replies are
// still to come, ahead of all others.
func (s *Session) loseCommands() {
	s.flags |= clientGap
	s.queue.forget()
	if s.flags&(serverGap|loggedIn) == serverGap {
		s.flags |= loginLost // both the command and its reply may be
	}
}

// loseReplies forgets the pending commands after a gap of the server, because any of
// their replies may be lost. A login that was under way may have succeeded. The gap may
// hide the first or the last line of a multi-line reply: what follows may be its text.
func (s *Session) loseReplies() {
	if s.flags&loggedIn == 0 {
		if s.flags&clientGap != 0 || s.loginPending() {
			s.flags |= loginLost
		}
		s.flags |= serverGap
	}
	if s.multi == 0 && (s.flags&clientGap != 0 || s.queue.forgotten > 0 || s.queue.has(verbText)) {
		s.multi = lostCode
	}
	if s.multi != 0 {
		s.flags |= maybeText
	}
	s.queue.clear()
}
