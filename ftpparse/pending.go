package ftpparse

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
	// verbTransfer the last one before it, or DefaultPort. A port without via is
	// announced when the reply accepts it.
	via  Via
	port uint16
}

// announces reports whether p stands for an endpoint that may be in use from p on.
func (p *pending) announces() bool { return p.via != ViaNone && p.verb != verbTransfer }

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
