package conntrack

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"time"

	"ftpctd/ftpparse"
)

const (
	// closedTimeout is how long a closed connection stays in the table: as long as in the
	// kernel's, in TIME_WAIT. Its stray packets then do not count as those of a connection
	// whose handshake was not seen.
	closedTimeout = 2 * time.Minute
	// idleTimeout is how long a connection stays in the table without packets: as long as
	// an ESTABLISHED one in the kernel's (tcp_timeouts of
	// net/netfilter/nf_conntrack_proto_tcp.c). If a host lost power, no FIN or RST comes.
	idleTimeout = 5 * 24 * time.Hour
)

// connKey identifies a control connection. It has no pointers, for the garbage collector,
// and is compared as memory.
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

// reverse returns the key of the connection in the other direction.
func (k *connKey) reverse() connKey {
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

// conn is one control connection. There may be very many, most of them idle: it is small,
// and state that few of them have is behind pointers.
type conn struct {
	key        connKey
	chain      *conn // next with the same hash
	next, prev *conn // in the ring of the rank
	session    ftpparse.Session
	isn        [2]uint32     // initial sequence numbers, to recognize a repeated SYN/ACK
	seen       time.Duration // time of the last packet, by Tracker.clock
	newest     *expectation  // of this connection, linked by age
	source     *source       // of the client, once the connection counts against its share
	nat        *Connection   // the connection in conntrack, nil without NAT and zone
	links      *links        // nil until it was in one of their lists
	count      int32         // of expectations
	state      connState
	rank       rank
}

// links are the places of a connection in the lists that few connections are in. The conn
// keeps them when it is reused for another connection.
type links struct {
	conn       *conn
	buffered   int    // bytes that the session buffers
	next, prev *links // in the ring Tracker.holders, unless buffered is 0
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

// connState is a set of facts about a connection.
type connState uint16

const (
	handshake connState = 1 << iota // isn is set
	synData                         // the client's SYN had payload, which was not parsed
	clientFIN
	serverFIN
	closed
	opaque
	clientPayload // seen
	serverPayload
	lookedUp // nat is set
	skipped  // not parsed until it closes; its payload may not be queued any more
)

// rank is the order of eviction. Like conntrack, which drops entries that are not ASSURED
// first, it lets packets with forged addresses fill the table, but evict no session.
type rank uint8

const (
	rankClosed    rank = iota
	rankSkipped        // in the table so that it is logged once
	rankSilent         // no payload since the handshake
	rankUnreplied      // payload from one side only
	rankAssured
	ranks
)

// timeout returns how long a connection of rank r stays in the table without packets.
func (r rank) timeout() time.Duration {
	if r == rankClosed {
		return closedTimeout
	}
	return idleTimeout
}

// connTable holds the control connections by key, and in the order of their last packet
// for each rank. It is a hash table with chains and of a fixed size: a map would store
// every key twice, and leave garbage as it grows.
type connTable struct {
	seed   maphash.Seed
	chains []*conn // their number is a power of two
	n      int
	lru    [ranks]conn // rings: next is the most recently used, prev the least
	free   *conn       // linked by next
}

func (t *connTable) init(limit int) {
	t.seed = maphash.MakeSeed()
	t.chains = make([]*conn, 1<<bits.Len(uint(max(limit, 1)-1)))
	for r := range t.lru {
		t.lru[r].next, t.lru[r].prev = &t.lru[r], &t.lru[r]
	}
}

// chain returns the first connection with the hash of key. The seed is secret, so that a
// sender of forged packets cannot choose keys that share a chain.
func (t *connTable) chain(key *connKey) **conn {
	return &t.chains[maphash.Comparable(t.seed, *key)&uint64(len(t.chains)-1)]
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

// oldest returns the connection to evict next, nil if there is none.
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

// insert adds a connection. If the table is full, it evicts another one.
func (t *Tracker) insert(key connKey, r rank) *conn {
	if t.conns.n >= t.cfg.Connections && t.conns.n > 0 {
		t.evict(t.conns.oldest())
	}
	return t.conns.add(&key, r, t.clock)
}

// touch makes c the most recently used connection of a rank.
func (t *Tracker) touch(c *conn, r rank) { t.conns.touch(c, r, t.clock) }

// skip skips any connection until it closes.
func (t *Tracker) skip(c *conn, why Reason) {
	t.withdrawAll(c, why)
	t.clearOpaque(c)
	t.dropBuffers(c)
	t.release(c)
	t.touch(c, rankSkipped)
	c.state = c.state&^(closed|synData) | skipped
	if why == NotSeenFromStart {
		t.stats.Unseen++
	}
	t.observe(Event{Kind: EventNotFTP, Master: c.key.master(), Reason: why})
}

// skipCurrent skips the connection of the packet.
func (t *Tracker) skipCurrent(c *conn, why Reason) {
	t.skip(c, why)
	t.decision.Skip = true
}

// close closes c, which stays in the table for closedTimeout.
func (t *Tracker) close(c *conn, why Reason) {
	t.withdrawAll(c, why)
	t.clearOpaque(c)
	t.dropBuffers(c)
	t.release(c)
	c.state |= closed
	t.touch(c, rankClosed)
	t.observe(Event{Kind: EventClose, Master: c.key.master(), Reason: why})
}

func (t *Tracker) evict(c *conn) {
	if c.state&closed == 0 {
		t.stats.Evicted++
	}
	t.forget(c, Evicted)
}

// forget removes c from the table.
func (t *Tracker) forget(c *conn, why Reason) {
	if c.state&closed == 0 {
		t.close(c, why)
	}
	t.conns.remove(c)
}
