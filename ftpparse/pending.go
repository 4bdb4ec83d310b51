package ftpparse

import (
	"math"
	"net/netip"
	"sync"
)

// maxPending is the number of commands that are kept until their reply. Clients pipeline
// a handful. Of those beyond, the oldest are forgotten and only counted.
const maxPending = 32

// maxUnanswered bounds the commands without a reply. Clients send a few hundred at once.
// One that sends more does not wait for replies, and reading on would be wasted.
const maxUnanswered = 1 << 14

// pending is a command that has no final reply yet.
type pending struct {
	verb Verb
	// via and port are the command's announcement: for PORT, EPRT and LPRT their own, for
	// verbTransfer the last one before it, or DefaultPort. A PORT, EPRT or LPRT that has
	// a port and no via is deferred: it is announced when its reply accepts it.
	via  Via
	port uint16
}

// announces reports whether p names an endpoint that may be in use from p on.
func (p *pending) announces() bool { return p.via != ViaNone && p.verb != verbTransfer }

// queue holds the commands that have no final reply yet, the oldest first, and counts
// the replies that are to come ahead of theirs.
type queue struct {
	// backlog holds the commands if it is not nil; otherwise there is one at most, which
	// is in only. Most clients wait for each reply before the next command.
	backlog *backlog
	only    pending
	// forgotten counts the commands without a reply that are older than those held.
	forgotten uint32
	length    uint8
	// owed counts the replies to transfers that a 227, 228 or 229 has overtaken.
	owed uint8
}

// backlog is what few sessions need, and not for long: room for more than one command.
// It is taken from a pool and returned once no command is pending.
type backlog struct {
	ring         [maxPending]pending
	head         uint8      // place of the oldest command
	deferredAddr netip.Addr // address of the deferred commands
}

var backlogs = sync.Pool{New: func() any { return new(backlog) }}

// at returns the i-th command, the oldest first.
func (q *queue) at(i uint8) pending {
	if q.backlog == nil {
		return q.only
	}
	return *q.backlog.at(i)
}

func (b *backlog) at(i uint8) *pending { return &b.ring[(b.head+i)%maxPending] }

// grow moves the command to a backlog.
func (q *queue) grow() {
	q.backlog = backlogs.Get().(*backlog)
	*q.backlog.at(0) = q.only
}

// shrink returns the backlog of an empty queue to its pool.
func (q *queue) shrink() {
	if q.backlog != nil {
		q.backlog.deferredAddr = netip.Addr{}
		backlogs.Put(q.backlog)
		q.backlog = nil
	}
}

// has reports whether a command with verb v is pending.
func (q *queue) has(v Verb) bool { return q.through(v) > 0 }

// through returns the number of commands up to the oldest with verb v, 0 if there is
// none.
func (q *queue) through(v Verb) uint8 {
	for i := range q.length {
		if q.at(i).verb == v {
			return i + 1
		}
	}
	return 0
}

// throughAsking returns the number of commands up to the oldest that via may answer, 0 if
// there is none.
func (q *queue) throughAsking(via Via) uint8 {
	for i := range q.length {
		if q.at(i).verb.asksFor(via) {
			return i + 1
		}
	}
	return 0
}

// asksFor reports whether via may answer v. Some servers answer PASV with 229 and EPSV
// with 227.
func (v Verb) asksFor(via Via) bool {
	switch via {
	case R227, R229:
		return v == verbPASV || v == verbEPSV
	case R228:
		return v == verbLPSV
	default:
		return false
	}
}

// push adds a command; the oldest is forgotten if there are too many.
func (q *queue) push(p pending) {
	if q.length == 0 && q.backlog == nil {
		q.only, q.length = p, 1
		return
	}
	q.pushBacklog(p)
}

func (q *queue) pushBacklog(p pending) {
	if q.backlog == nil {
		q.grow()
	}
	if q.length == maxPending {
		q.backlog.head++
		q.length--
		q.forgotten++
	}
	*q.backlog.at(q.length) = p
	q.length++
}

// drop removes the n oldest commands: they have their reply, and so have all before
// them.
func (q *queue) drop(n uint8) {
	q.forgotten = 0
	q.length -= n
	if q.backlog != nil {
		q.backlog.head += n
	}
}

// forget removes all commands, whose replies are still to come.
func (q *queue) forget() {
	q.forgotten += uint32(q.length)
	q.length = 0
}

// clear removes all commands and expects no reply to any.
func (q *queue) clear() { q.length, q.forgotten, q.owed = 0, 0, 0 }

// deferTo notes the address of a deferred command that is pushed next. There is room for
// one address, and a client has one: of two the later counts.
func (q *queue) deferTo(addr netip.Addr) {
	if q.backlog == nil {
		q.grow()
	}
	if q.backlog.deferredAddr != addr {
		for i := range q.length {
			if p := q.backlog.at(i); p.via == ViaNone {
				p.port = 0
			}
		}
	}
	q.backlog.deferredAddr = addr
}

// deferredAddr returns the address of the deferred commands, the zero Addr if there are
// none.
func (q *queue) deferredAddr() netip.Addr {
	if q.backlog == nil {
		return netip.Addr{}
	}
	return q.backlog.deferredAddr
}

// overtake notes the transfers among the n oldest commands, which are about to be
// dropped: their replies are still to come, behind that of a later command.
func (q *queue) overtake(n uint8) {
	for i := range n {
		if q.at(i).verb == verbTransfer && q.owed < math.MaxUint8 {
			q.owed++
		}
	}
}

// answersEarlier reports whether a final reply belongs to a command that is no longer in
// the queue, and counts it off.
func (q *queue) answersEarlier(code Code) bool {
	switch {
	case q.owed > 0 && (code == 225 || code == 226 || code == 426 || q.length > 0 && q.at(0).verb == verbTransfer):
		q.owed--
	case q.forgotten > 0:
		q.forgotten--
	default:
		return false
	}
	return true
}
