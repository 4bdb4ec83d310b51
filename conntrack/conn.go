package conntrack

import (
	"net/netip"
	"time"

	"ftpctd/ftpparse"
)

// connKey is a control connection: a map key without pointers, which the
// garbage collector need not look into.
type connKey struct {
	client, server         [16]byte
	clientPort, serverPort uint16
	family, zone           uint16
}

func keyOf(client, server netip.AddrPort) connKey {
	return connKey{
		client: client.Addr().As16(), clientPort: client.Port(),
		server: server.Addr().As16(), serverPort: server.Port(),
		family: familyOf(client.Addr()),
	}
}

// turned is the key of a connection whose client is this one's server.
func (k *connKey) turned() connKey {
	return connKey{
		client: k.server, clientPort: k.serverPort, server: k.client, serverPort: k.clientPort,
		family: k.family, zone: k.zone,
	}
}

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return 4
	}
	return 6
}

func (k *connKey) master() Tuple {
	return Tuple{
		Src: netip.AddrPortFrom(addrOf(k.client, k.family), k.clientPort),
		Dst: netip.AddrPortFrom(addrOf(k.server, k.family), k.serverPort),
	}
}

func addrOf(b [16]byte, family uint16) netip.Addr {
	a := netip.AddrFrom16(b)
	if family == 4 {
		return a.Unmap()
	}
	return a
}

// conn is one control connection.
type conn struct {
	session    ftpparse.Session
	key        connKey
	state      connState
	rank       rank
	count      int           // of expectations
	isn        [2]uint32     // initial sequence numbers, to know a repeated SYN/ACK
	seen       time.Duration // when the last packet came, by Tracker.clock
	next, prev *conn
	newest     *expectation // of this connection, linked by age
	nat        *Connection  // what conntrack makes of the connection, nil if it translates nothing
	source     *source      // of the client, once the connection counts against its share
	holder     *holder      // nil while the session holds no buffers
	// The opaque connections between the same hosts, from the newest on.
	older, newer *conn
}

type connState uint16

const (
	handshake connState = 1 << iota // isn is set
	synData                         // the client's SYN had payload, which went unread
	clientFIN
	serverFIN
	closed
	opaque
	clientSpoke // payload was seen
	serverSpoke
	lookedUp // nat is known
	skipped  // its payload may not come any more
)

// rank is the order in which connections make room for others, as conntrack
// drops what is not ASSURED first: packets with forged addresses may fill the
// table, but empty it of no session.
type rank uint8

const (
	ended     rank = iota
	unread         // never read again; in the table so that it is logged once
	silent         // nobody has spoken since the handshake
	unassured      // one side has yet to speak
	assured
	ranks
)

// linger is how long a connection of rank r stays on which nothing is seen.
func (r rank) linger() time.Duration {
	if r == ended {
		return closedLinger
	}
	return idleLinger
}

// giveUp leaves c, the connection of the packet, unread until its end.
func (t *Tracker) giveUp(c *conn, why Reason) {
	t.abandon(c, why)
	t.decision.Skip = true
}

// abandon leaves any connection unread until its end.
func (t *Tracker) abandon(c *conn, why Reason) {
	t.withdrawAll(c, why)
	t.clearOpaque(c)
	t.dropBuffers(c)
	t.release(c)
	t.touch(c, unread)
	c.state = c.state&^(closed|synData) | skipped
	if why == NotSeenFromStart {
		t.stats.Unseen++
	}
	t.observe(Event{Kind: EventNotFTP, Master: c.key.master(), Reason: why})
}

// insert adds a connection; another one makes room if there is none.
func (t *Tracker) insert(key connKey, r rank) *conn {
	if len(t.conns) >= t.cfg.Connections && len(t.conns) > 0 {
		t.evict(t.oldest())
	}
	c := t.free
	if c != nil {
		t.free = c.next
	} else {
		c = new(conn)
	}
	*c = conn{key: key, rank: r, seen: t.clock}
	t.conns[key] = c
	c.push(&t.lru[r])
	return c
}

// oldest is the connection that has to make room.
func (t *Tracker) oldest() *conn {
	for r := range t.lru {
		if c := t.lru[r].prev; c != &t.lru[r] {
			return c
		}
	}
	return nil
}

// touch makes c the most recently used connection of a rank.
func (t *Tracker) touch(c *conn, r rank) {
	c.seen = t.clock
	c.rank = r
	if t.lru[r].next != c {
		c.unlink()
		c.push(&t.lru[r])
	}
}

func (c *conn) push(ring *conn) {
	c.next, c.prev = ring.next, ring
	ring.next.prev = c
	ring.next = c
}

func (c *conn) unlink() {
	c.prev.next, c.next.prev = c.next, c.prev
}

// close ends c. It stays in the table for a while: see closedLinger.
func (t *Tracker) close(c *conn, why Reason) {
	t.withdrawAll(c, why)
	t.clearOpaque(c)
	t.dropBuffers(c)
	t.release(c)
	c.state |= closed
	t.touch(c, ended)
	t.observe(Event{Kind: EventClose, Master: c.key.master(), Reason: why})
}

// evict has c make room.
func (t *Tracker) evict(c *conn) {
	if c.state&closed == 0 {
		t.stats.Evicted++
	}
	t.forget(c, Evicted)
}

// forget takes c out of the table.
func (t *Tracker) forget(c *conn, why Reason) {
	if c.state&closed == 0 {
		t.close(c, why)
	}
	delete(t.conns, c.key)
	c.unlink()
	*c = conn{next: t.free}
	t.free = c
}
