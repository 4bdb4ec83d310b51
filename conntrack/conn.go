package conntrack

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"time"

	"ftpctd/ftpparse"
)

// connKey identifies a control connection. It has no padding and no pointers: it is hashed
// and compared as memory.
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

// conn is one control connection. There may be very many, most of which are idle: it is
// small, and what few of them need is behind pointers.
type conn struct {
	key        connKey
	chain      *conn // the next one with the same hash
	next, prev *conn // in the ring of the rank
	session    ftpparse.Session
	isn        [2]uint32     // initial sequence numbers, to know a repeated SYN/ACK
	seen       time.Duration // when the last packet came, by Tracker.clock
	newest     *expectation  // of this connection, linked by age
	source     *source       // of the client, once the connection counts against its share
	nat        *Connection   // what conntrack makes of the connection, nil if it translates nothing
	links      *links        // nil until it was in one of their lists
	count      int32         // of expectations
	state      connState
	rank       rank
}

// links are the places of a connection in the lists that few connections are in. A conn
// keeps them, also as the entry of another connection.
type links struct {
	conn       *conn
	buffered   int    // bytes that the session holds
	next, prev *links // in the ring Tracker.holders, if there are any
	// The opaque connections between the same hosts, from the newest on.
	older, newer *conn
}

// listed returns the links of c.
func (c *conn) listed() *links {
	if c.links == nil {
		c.links = &links{conn: c}
	}
	return c.links
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

// connTable holds the control connections by key, and those of each rank by the time of
// their last packet. It is a hash table of a fixed size with chains: a map would hold
// every key a second time, and what it allocates as it grows.
type connTable struct {
	seed   [3]uint64
	chains []*conn // as many as a power of two
	n      int
	lru    [ranks]conn // rings: next is the most recently used, prev the least
	free   *conn       // linked by next
}

func (t *connTable) init(limit int) {
	t.seed = [...]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64()}
	t.chains = make([]*conn, 1<<bits.Len(uint(max(limit, 1)-1)))
	for r := range t.lru {
		t.lru[r].next, t.lru[r].prev = &t.lru[r], &t.lru[r]
	}
}

// chain returns the first connection with the hash of key. The hash folds products as
// wyhash does; the seed keeps hosts from choosing connections that share a chain.
func (t *connTable) chain(key *connKey) **conn {
	rest := uint64(key.clientPort) | uint64(key.serverPort)<<16 | uint64(key.family)<<32 | uint64(key.zone)<<48
	high1, low1 := bits.Mul64(binary.LittleEndian.Uint64(key.client[:8])^t.seed[0], binary.LittleEndian.Uint64(key.client[8:])^t.seed[1])
	high2, low2 := bits.Mul64(binary.LittleEndian.Uint64(key.server[:8])^rest, binary.LittleEndian.Uint64(key.server[8:])^t.seed[2])
	return &t.chains[(high1^low1^high2^low2)&uint64(len(t.chains)-1)]
}

func (t *connTable) find(key *connKey) *conn {
	c := *t.chain(key)
	for c != nil && c.key != *key {
		c = c.chain
	}
	return c
}

// add adds a connection that is not in t.
func (t *connTable) add(key *connKey, r rank, now time.Duration) *conn {
	c := t.free
	if c != nil {
		t.free = c.next
	} else {
		c = new(conn)
	}
	first := t.chain(key)
	*c = conn{key: *key, rank: r, seen: now, chain: *first, links: c.links}
	*first = c
	c.push(&t.lru[r])
	t.n++
	return c
}

func (t *connTable) remove(c *conn) {
	at := t.chain(&c.key)
	for *at != c {
		at = &(*at).chain
	}
	*at = c.chain
	c.unlink()
	*c = conn{next: t.free, links: c.links}
	t.free = c
	t.n--
}

// touch makes c the most recently used connection of a rank.
func (t *connTable) touch(c *conn, r rank, now time.Duration) {
	c.seen = now
	c.rank = r
	if t.lru[r].next != c {
		c.unlink()
		c.push(&t.lru[r])
	}
}

// oldest is the connection to evict first, nil if there is none.
func (t *connTable) oldest() *conn {
	for r := range t.lru {
		if c := t.lru[r].prev; c != &t.lru[r] {
			return c
		}
	}
	return nil
}

func (c *conn) push(ring *conn) {
	c.next, c.prev = ring.next, ring
	ring.next.prev = c
	ring.next = c
}

func (c *conn) unlink() {
	c.prev.next, c.next.prev = c.next, c.prev
}

// insert adds a connection; another one makes room if there is none.
func (t *Tracker) insert(key connKey, r rank) *conn {
	if t.conns.n >= t.cfg.Connections && t.conns.n > 0 {
		t.evict(t.conns.oldest())
	}
	return t.conns.add(&key, r, t.clock)
}

// touch makes c the most recently used connection of a rank.
func (t *Tracker) touch(c *conn, r rank) { t.conns.touch(c, r, t.clock) }

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
	t.conns.remove(c)
}
