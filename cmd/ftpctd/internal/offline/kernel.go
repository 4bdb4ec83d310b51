package offline

import (
	"cmp"
	"net/netip"
	"os"
	"time"

	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

// kernel is conntrack, as far as the daemon's rules and its tracker depend on it:
// net/netfilter/nf_conntrack_proto_tcp.c without windows. It keeps a record of every
// connection that has a control port or was expected, and takes no notice of others.
type kernel struct {
	connections map[key]*connection
	id          uint32 // of the last entry
}

// direction is enum ip_conntrack_dir.
type direction uint8

const (
	original direction = iota
	reply
)

// The states behind conntrack.StateEstablished, and what else a row of transitions may
// say (enum tcp_conntrack).
const (
	finWait = conntrack.StateEstablished + 1 + iota
	closeWait
	lastAck
	timeWait
	closed
	synSent2 // both sides have sent a SYN
	invalid
	ignored
)

// key is a pair of ends, in an order of their own.
type key [2]netip.AddrPort

func keyOf(a, b netip.AddrPort) key {
	if cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port())) > 0 {
		a, b = b, a
	}
	return key{a, b}
}

// connection is what is known of two ends: conntrack's entry while it is alive, and
// whether the capture has its beginning, which outlives that.
type connection struct {
	client, server netip.AddrPort
	id             uint32
	state          conntrack.TCPState
	alive          bool
	assured        bool
	expected       bool
	begun          bool // the capture has a SYN of it
	listed         bool // it was handed out to be picked up
	seen           [2]bool
	syn            [2]bool // a SYN of that direction came: the labels of package firewall

	lastSYN    uint32 // what acknowledges the client's last SYN
	newSYN     bool   // which was the last packet and was ignored
	twoSYNs    bool   // simultaneous open
	acked      [2]uint32
	hasAcked   [2]bool
	lastPacket time.Time
}

// as is the connection in the words of ctnetlink.
func (c *connection) as() conntrack.Connection {
	return conntrack.Connection{
		Original: conntrack.Tuple{Src: c.client, Dst: c.server},
		Reply:    conntrack.Tuple{Src: c.server, Dst: c.client},
		ID:       c.id, State: c.state, Assured: c.assured, Expected: c.expected,
	}
}

// lookup is engine.Config's. It fails with os.ErrNotExist.
func (k *kernel) lookup(ends conntrack.Tuple) (conntrack.Connection, error) {
	c := k.connections[keyOf(ends.Src, ends.Dst)]
	if c == nil || !c.alive {
		return conntrack.Connection{}, os.ErrNotExist
	}
	return c.as(), nil
}

// find returns what is known of the ends of p, with an entry that has run out dead, and
// the direction of p. It returns nil if nothing is.
func (k *kernel) find(now time.Time, p *packet.Packet) (*connection, direction) {
	c := k.connections[keyOf(p.Src, p.Dst)]
	if c == nil {
		return nil, original
	}
	if c.alive && now.Sub(c.lastPacket) >= timeouts[c.state] {
		c.alive = false
	}
	if p.Src == c.client {
		return c, original
	}
	return c, reply
}

// record makes an entry, and keeps what is known of its ends.
func (k *kernel) record(now time.Time, client, server netip.AddrPort) *connection {
	at := keyOf(client, server)
	c := k.connections[at]
	if c == nil {
		c = new(connection)
		k.connections[at] = c
	}
	k.id++
	*c = connection{
		client: client, server: server, id: k.id, alive: true, lastPacket: now,
		begun: c.begun, listed: c.listed,
	}
	return c
}

// drop notes a SYN that a rule keeps from making an entry.
func (k *kernel) drop(p *packet.Packet) {
	c := k.connections[keyOf(p.Src, p.Dst)]
	if c == nil {
		c = k.record(time.Time{}, p.Src, p.Dst)
		c.alive = false
	}
	c.begun = true
}

// open makes the entry of a connection that p, a SYN, begins.
func (k *kernel) open(now time.Time, p *packet.Packet, expected bool) *connection {
	c := k.record(now, p.Src, p.Dst)
	c.begun, c.expected = true, expected
	c.state, c.seen[original] = conntrack.StateSynSent, true
	c.lastSYN = end(p)
	return c
}

// pickUp makes the entry of a connection whose first packet is p. If the capture has
// its SYN, that is conntrack's doing (nf_conntrack_tcp_loose), which takes who sends p
// for the client; else clientSent tells what conntrack would know. It returns nil for a
// packet with which no entry begins.
func (k *kernel) pickUp(now time.Time, p *packet.Packet, clientSent bool) (*connection, direction) {
	known := k.connections[keyOf(p.Src, p.Dst)]
	loose := known != nil && known.begun
	switch p.Flags {
	case packet.ACK:
	case packet.SYN | packet.ACK:
		if loose {
			return nil, original
		}
	default:
		return nil, original
	}
	client, server, dir := p.Src, p.Dst, original
	if !loose && !clientSent {
		client, server, dir = p.Dst, p.Src, reply
	}
	c := k.record(now, client, server)
	c.state, c.seen[dir] = conntrack.StateEstablished, true
	return c, dir
}

// transitions are those of tcp_conntracks: by direction, what a packet is, and state.
var transitions = [2][5][10]conntrack.TCPState{
	original: {
		isSYN:    {1, 1, ignored, ignored, ignored, ignored, ignored, 1, 1, synSent2},
		isSYNACK: {invalid, invalid, 2, invalid, invalid, invalid, invalid, invalid, invalid, 2},
		isFIN:    {invalid, invalid, finWait, finWait, lastAck, lastAck, lastAck, timeWait, closed, invalid},
		isACK:    {3, invalid, 3, 3, closeWait, closeWait, timeWait, timeWait, closed, invalid},
		isRST:    {invalid, closed, closed, closed, closed, closed, closed, closed, closed, closed},
	},
	reply: {
		isSYN:    {invalid, synSent2, invalid, invalid, invalid, invalid, invalid, 1, invalid, synSent2},
		isSYNACK: {invalid, 2, ignored, ignored, ignored, ignored, ignored, ignored, ignored, 2},
		isFIN:    {invalid, invalid, finWait, finWait, lastAck, lastAck, lastAck, timeWait, closed, invalid},
		isACK:    {invalid, ignored, 2, 3, closeWait, closeWait, timeWait, timeWait, closed, ignored},
		isRST:    {invalid, closed, closed, closed, closed, closed, closed, closed, closed, closed},
	},
}

// timeouts are how long an entry stays on which nothing is seen (tcp_timeouts).
var timeouts = [10]time.Duration{
	conntrack.StateSynSent: 2 * time.Minute, conntrack.StateSynRecv: time.Minute,
	conntrack.StateEstablished: 5 * 24 * time.Hour,
	finWait:                    2 * time.Minute, closeWait: time.Minute, lastAck: 30 * time.Second,
	timeWait: 2 * time.Minute, closed: 10 * time.Second, synSent2: 2 * time.Minute,
}

// What a packet is.
const (
	isSYN = iota
	isSYNACK
	isFIN
	isACK
	isRST
)

// kind tells what p is. ok is false for flags that no packet may have
// (tcp_valid_flags).
func kind(p *packet.Packet) (_ int, ok bool) {
	switch p.Flags {
	case packet.SYN:
		return isSYN, true
	case packet.SYN | packet.ACK:
		return isSYNACK, true
	case packet.FIN | packet.ACK:
		return isFIN, true
	case packet.ACK:
		return isACK, true
	case packet.RST, packet.RST | packet.ACK:
		return isRST, true
	}
	return 0, false
}

// end is the sequence number behind p.
func end(p *packet.Packet) uint32 {
	n := p.Seq + uint32(len(p.Payload))
	if p.Flags&packet.SYN != 0 {
		n++
	}
	if p.Flags&packet.FIN != 0 {
		n++
	}
	return n
}

func before(a, b uint32) bool { return int32(a-b) < 0 }

// reopens reports whether p begins another connection between the ends of c: conntrack
// drops the entry, and takes p for a first packet.
func (c *connection) reopens(dir direction, p *packet.Packet) bool {
	return isFirst(p) && c.state >= timeWait && transitions[dir][isSYN][c.state] == conntrack.StateSynSent
}

// follow takes the next packet of an entry. It returns false if p is invalid.
func (c *connection) follow(now time.Time, dir direction, p *packet.Packet) bool {
	what, ok := kind(p)
	if !ok {
		return false
	}
	state := transitions[dir][what][c.state]
	answersNew := c.newSYN && what == isSYNACK && dir == reply && p.Ack == c.lastSYN
	switch {
	case state == invalid:
		return false
	case state == ignored && answersNew:
		// Both sides have forgotten the connection before conntrack did.
		c.hasAcked = [2]bool{}
		state = conntrack.StateSynRecv
	case state == ignored:
		c.seen[dir] = true
		if c.newSYN = what == isSYN; c.newSYN {
			c.lastSYN = end(p)
		}
		return true
	case what == isSYN && dir == original:
		c.lastSYN = end(p) // sent again
	case what == isSYNACK && c.state == conntrack.StateSynSent && p.Ack != c.lastSYN:
		return false
	case what == isRST && c.hasAcked[1-dir]:
		// One that is not in its place leaves the connection to a challenge ACK (RFC 5961
		// section 3.2).
		place := c.acked[1-dir]
		if before(p.Seq, place) {
			return false
		}
		if c.state == conntrack.StateEstablished && p.Seq != place {
			state = c.state
		}
	}
	c.newSYN = false
	switch {
	case state == synSent2:
		c.twoSYNs = true
	case state == conntrack.StateSynRecv && c.twoSYNs && what == isACK && dir == reply:
		state = conntrack.StateEstablished
	}
	c.seen[dir] = true
	if c.seen[reply] && state == conntrack.StateEstablished && (c.state == conntrack.StateSynRecv || c.state == state) {
		c.assured = true
	}
	c.state, c.lastPacket = state, now
	if p.Flags&packet.ACK != 0 && (!c.hasAcked[dir] || before(c.acked[dir], p.Ack)) {
		c.acked[dir], c.hasAcked[dir] = p.Ack, true
	}
	return true
}
