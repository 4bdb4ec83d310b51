package conntrack

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ftpctd/ftpparse"
)

// Bounds that are not the administrator's to choose.
const (
	// maxExpectations bounds the expectations of all control connections
	// together; the kernel's own bound is nf_conntrack_expect_max.
	maxExpectations = 1 << 16
	// maxBuffered bounds the bytes held for incomplete lines and out-of-order
	// segments of all control connections together.
	maxBuffered = 64 << 20
	// closedLinger is how long an ended connection stays in the table: as long
	// as the kernel keeps it in TIME_WAIT. What still comes on it is not taken
	// for a connection that is picked up in the middle.
	closedLinger = 2 * time.Minute
	// idleLinger is how long a connection stays on which nothing is seen: as long as
	// the kernel keeps one that is ESTABLISHED (tcp_timeouts of
	// net/netfilter/nf_conntrack_proto_tcp.c). The end of one whose host lost power
	// is never seen.
	idleLinger = 5 * 24 * time.Hour
)

// Config sets a Tracker up.
type Config struct {
	// Ports are the control ports; the side with one of them is the server.
	Ports []uint16
	// Policy decides which announced endpoints may be expected.
	Policy Policy
	// Connections bounds the table. What has ended gives way first, then the least
	// recently used connection on which one side has yet to speak, then the least
	// recently used of the others.
	Connections int
	// MaxExpected bounds the unused expectations of one control connection; the
	// oldest gives way.
	MaxExpected int
	// Timeout is how long an unused expectation stands.
	Timeout time.Duration
	// Shared tells that several control connections may expect the same tuple at a
	// time, which the kernel's table does not take: none is Contested, and what
	// stands for the tuple is withdrawn with the last of them.
	Shared bool
	// SkipOpaque leaves a connection that went into TLS unread until its end: it
	// is not noticed if it returns to clear text.
	SkipOpaque bool
	// Lookup asks conntrack for the control connection between ends, of the packet
	// that the Tracker was given last. It is called for the first line that announces
	// an endpoint or begins TLS, and again after the kernel has refused an expectation:
	// NAT stays as it is for as long as conntrack has the connection. Nil or false takes the
	// connection to be without NAT.
	Lookup func(ends Tuple) (Connection, bool)
	// Observe is called for each event, in the caller's goroutine; nil for none.
	Observe func(Event)
}

// Stats counts what a Tracker has seen since it was made.
type Stats struct {
	Packets     uint64 // packets given to Packet
	Sessions    uint64 // control connections opened
	Expected    uint64 // expectations
	Rejected    uint64 // announcements refused
	Withdrawn   uint64 // expectations withdrawn
	Opaque      uint64 // sessions that went into TLS
	NotFTP      uint64 // connections that were not FTP
	Gaps        uint64 // bytes lost within a session
	Evicted     uint64 // connections that gave way to newer ones
	Connections int    // in the table now
	Outstanding int    // expectations that stand now
}

// Tracker is the table of control connections. It is not safe for concurrent
// use.
type Tracker struct {
	cfg   Config
	stats Stats

	conns map[connKey]*conn
	lru   [ranks]conn // rings: next is the most recently used, prev the least
	free  *conn

	expected expectationTable
	opaque   map[Hosts]*conn // the newest of those that cannot be read for TLS
	buffered int

	now      time.Time
	start    time.Time     // the first now
	clock    time.Duration // from start to now: where now is monotonic, setting the clock ages nothing
	events   []ftpparse.Event
	decision Decision
}

// New makes a Tracker.
func New(cfg Config) *Tracker {
	t := &Tracker{cfg: cfg, conns: make(map[connKey]*conn), opaque: make(map[Hosts]*conn)}
	for r := range t.lru {
		t.lru[r].next, t.lru[r].prev = &t.lru[r], &t.lru[r]
	}
	t.expected.init()
	return t
}

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
	synSeq     uint32
	count      int           // of expectations
	isn        [2]uint32     // initial sequence numbers, to know a repeated SYN/ACK
	seen       time.Duration // when the last packet came, by Tracker.clock
	next, prev *conn
	newest     *expectation // of this connection, linked by age
	nat        *Connection  // what conntrack makes of the connection, nil if it translates nothing
	opaque     *conn        // the next opaque connection between the same hosts
}

type connState uint16

const (
	synSeen   connState = 1 << iota // the client's SYN was seen, synSeq is set
	handshake                       // isn is set
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
// table, but empty it of no session. A session that had to go is picked up in
// the middle next time, and who could bring that about would choose where.
type rank uint8

const (
	ended     rank = iota
	unassured      // one side has yet to speak
	assured
	ranks
)

// Packet takes the next packet of a control connection. now must not go back.
func (t *Tracker) Packet(now time.Time, p *Packet) *Decision {
	t.stats.Packets++
	t.begin(now)
	dir, c, key := t.lookup(p)
	switch {
	case p.Flags&RST != 0:
		t.reset(c, p, dir)
	case p.Flags&SYN != 0:
		// The client asks, the server answers. The other way round either would
		// choose where in the other's stream reading begins.
		switch {
		case p.Flags&ACK == 0 && dir == ftpparse.DirOriginal:
			t.syn(c, key, p)
		case p.Flags&ACK != 0 && dir == ftpparse.DirReply:
			t.synAck(c, key, p)
		}
	default:
		t.segment(c, key, p, dir)
	}
	return &t.decision
}

func (t *Tracker) begin(now time.Time) {
	if t.start.IsZero() {
		t.start = now
	}
	t.now, t.clock = now, now.Sub(t.start)
	t.decision.Withdraw = t.decision.Withdraw[:0]
	t.decision.Expect = t.decision.Expect[:0]
	t.decision.Opaque = t.decision.Opaque[:0]
	t.decision.Readable = t.decision.Readable[:0]
	t.decision.Contested, t.decision.Anew, t.decision.Skip = false, false, false
}

// lookup finds the connection of p and the direction p travels in. Where both
// ports are control ports, the connection that is known decides, then the
// handshake.
func (t *Tracker) lookup(p *Packet) (ftpparse.Direction, *conn, connKey) {
	toServer := slices.Contains(t.cfg.Ports, p.Dst.Port())
	toClient := slices.Contains(t.cfg.Ports, p.Src.Port())
	original := keyOf(p.Src, p.Dst)
	original.zone = p.Zone
	if !toClient {
		return ftpparse.DirOriginal, t.conns[original], original
	}
	reply := keyOf(p.Dst, p.Src)
	reply.zone = p.Zone
	if !toServer {
		return ftpparse.DirReply, t.conns[reply], reply
	}
	if c := t.conns[original]; c != nil {
		return ftpparse.DirOriginal, c, original
	}
	if c := t.conns[reply]; c != nil || p.Flags&(SYN|ACK) == SYN|ACK {
		return ftpparse.DirReply, c, reply
	}
	return ftpparse.DirOriginal, nil, original
}

// syn notes a client's SYN. It opens nothing yet: a table that SYNs alone can
// fill is one that a flood empties of real sessions. A SYN on a known
// connection may be forged, too, and counts only once the server has answered.
func (t *Tracker) syn(c *conn, key connKey, p *Packet) {
	if c == nil {
		if len(p.Payload) == 0 {
			return
		}
		// TCP Fast Open. What the client says before the server has greeted is
		// not read, but its sequence numbers show that it was said.
		c = t.insert(key, ended)
		c.state |= closed
	}
	c.state |= synSeen
	c.synSeq = p.Seq
}

// synAck opens the connection: now both initial sequence numbers are known. On
// a connection that is known, open, ended or picked up, it counts only as the
// answer to a SYN: a server that sends one by itself would begin anew, at a place
// of its choice, what was found to be no FTP.
func (t *Tracker) synAck(c *conn, key connKey, p *Packet) {
	client, server := p.Ack, p.Seq+1
	if c != nil {
		if c.state&synSeen == 0 {
			return
		}
		client = c.synSeq + 1
		if c.state&(handshake|closed) == handshake && c.isn == [2]uint32{client, server} {
			return // repeated
		}
		if c.state&closed == 0 {
			t.close(c, Closed)
		}
		t.touch(c, unassured)
	} else {
		c = t.insert(key, unassured)
	}
	c.state, c.nat = handshake, nil
	c.isn = [2]uint32{client, server}
	c.session.Start(client, server)
	t.decision.Anew = true
	t.stats.Sessions++
	t.observe(Event{Kind: EventOpen, Master: key.master()})
}

// reset takes a RST that is in its place. One that is only close to it does not
// end the connection for its receiver (RFC 5961 section 3.2), and must not end it
// here: what was forgotten would be picked up where its sender likes. Behind a FIN
// the place of the FIN will do, as it does for Linux (tcp_reset_check of
// net/ipv4/tcp_input.c): a host that has closed answers so to what was sent before
// its FIN had come. Of what is skipped the place is not known, and no payload comes
// that it could be picked up with.
func (t *Tracker) reset(c *conn, p *Packet, dir ftpparse.Direction) {
	if c == nil || c.state&closed != 0 {
		return
	}
	if next, ok := c.session.Next(dir); ok && p.Seq != next && c.state&skipped == 0 {
		if p.Seq != next-1 || !c.session.Finished(dir) {
			return
		}
	}
	t.close(c, Closed)
}

// segment reads payload and FIN.
func (t *Tracker) segment(c *conn, key connKey, p *Packet, dir ftpparse.Direction) {
	if c == nil {
		if len(p.Payload) == 0 {
			return
		}
		c = t.insert(key, unassured)
		t.stats.Sessions++
		t.observe(Event{Kind: EventOpen, Master: key.master()})
	} else {
		t.touch(c, c.rank)
	}
	if c.state&closed != 0 {
		return
	}
	if len(p.Payload) > 0 {
		t.spoke(c, dir)
	}
	if c.state&skipped == 0 {
		t.read(c, p, dir)
	}
	if p.Flags&FIN != 0 {
		if dir == ftpparse.DirOriginal {
			c.state |= clientFIN
		} else {
			c.state |= serverFIN
		}
		if c.state&(clientFIN|serverFIN) == clientFIN|serverFIN {
			t.close(c, Closed)
		}
	}
}

// read gives a segment to the session of c.
func (t *Tracker) read(c *conn, p *Packet, dir ftpparse.Direction) {
	held := c.session.Buffered()
	if c.state&handshake != 0 && dir == ftpparse.DirOriginal && len(p.Payload) > 1 && int32(p.Seq-c.isn[0]) < 0 {
		// The SYN/ACK lied about where the client begins (conntrack lets it pass
		// with nf_conntrack_tcp_be_liberal), to have what comes first go unread. One
		// byte is a keep-alive (RFC 9293 section 3.8.4).
		server, _ := c.session.Next(ftpparse.DirReply)
		c.isn[0] = p.Seq
		c.session.Start(p.Seq, server)
	}
	t.events = c.session.Segment(t.events[:0], ftpparse.Segment{
		Dir: dir, Seq: p.Seq, Ack: p.Ack, HasAck: p.Flags&ACK != 0,
		FIN: p.Flags&FIN != 0, Payload: p.Payload,
	})
	t.buffered += c.session.Buffered() - held
	for i := range t.events {
		t.event(c, &t.events[i])
	}
	for t.buffered > maxBuffered {
		oldest := t.oldest(unassured, c)
		if oldest == nil {
			break
		}
		t.evict(oldest)
	}
}

// spoke notes that payload came from one side.
func (t *Tracker) spoke(c *conn, dir ftpparse.Direction) {
	if dir == ftpparse.DirOriginal {
		c.state |= clientSpoke
	} else {
		c.state |= serverSpoke
	}
	if c.rank == unassured && c.state&(clientSpoke|serverSpoke) == clientSpoke|serverSpoke {
		t.touch(c, assured)
	}
}

// event acts on what a session has read.
func (t *Tracker) event(c *conn, e *ftpparse.Event) {
	switch e.Kind {
	case ftpparse.Announced:
		connection := t.connection(c)
		tuple, why := t.cfg.Policy.Judge(&connection, e)
		if why != "" {
			t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: why})
			return
		}
		t.expect(c, connection.expectation(tuple, e.Via))
	case ftpparse.Rejected:
		master := c.key.master()
		t.reject(Event{Master: master, Via: e.Via, Tuple: asked(master, e), Reason: e.Reason})
	case ftpparse.Withdrawn:
		for x := c.newest; x != nil; {
			older := x.older
			if e.Via == ftpparse.ViaNone || x.Via.Active() == e.Via.Active() && x.Tuple.Dst.Port() == e.Endpoint.Port() {
				t.withdraw(x, e.Reason)
			}
			x = older
		}
	case ftpparse.Opaque:
		t.stats.Opaque++
		why := e.Reason
		if connection := t.connection(c); connection.readdressed() {
			why = Translated
		} else {
			t.setOpaque(c)
		}
		if t.cfg.SkipOpaque {
			t.skip(c)
		}
		t.observe(Event{Kind: EventOpaque, Master: c.key.master(), Reason: why})
	case ftpparse.NotFTP:
		t.stats.NotFTP++
		t.withdrawAll(c, NotAnFTPSession)
		t.skip(c)
		t.observe(Event{Kind: EventNotFTP, Master: c.key.master(), Reason: e.Reason})
	case ftpparse.Cleared:
		t.clearOpaque(c)
	case ftpparse.Gap:
		t.stats.Gaps++
	}
}

// skip leaves c unread until its end.
func (t *Tracker) skip(c *conn) {
	c.state |= skipped
	t.decision.Skip = true
}

// connection is c as conntrack has it. What conntrack has between other ends, or
// the other way round because it picked the connection up in the middle, is of no
// use: NAT does not apply to that.
func (t *Tracker) connection(c *conn) Connection {
	ends := c.key.master()
	if c.state&lookedUp == 0 && t.cfg.Lookup != nil {
		if found, ok := t.cfg.Lookup(ends); ok && found.Ends() == ends {
			c.state |= lookedUp
			c.nat = nil
			if found != untranslated(c.key.zone, ends) {
				nat := found // only this escapes to the heap
				c.nat = &nat
			}
		}
	}
	if c.nat != nil {
		return *c.nat
	}
	return untranslated(c.key.zone, ends)
}

// asked is the tuple that a rejected line asked for, as far as it could be read.
func asked(master Tuple, e *ftpparse.Event) Tuple {
	src, dst := master.Src.Addr(), e.Endpoint
	if e.Via.Active() {
		src = master.Dst.Addr()
	} else if dst.Port() != 0 && !dst.Addr().IsValid() {
		dst = netip.AddrPortFrom(master.Dst.Addr(), dst.Port())
	}
	return Tuple{Src: netip.AddrPortFrom(src, 0), Dst: dst}
}

func (t *Tracker) reject(e Event) {
	e.Kind = EventReject
	t.stats.Rejected++
	t.observe(e)
}

func (t *Tracker) observe(e Event) {
	if t.cfg.Observe != nil {
		e.Time = t.now
		t.cfg.Observe(e)
	}
}

// insert adds a connection; another one makes room if there is none.
func (t *Tracker) insert(key connKey, r rank) *conn {
	if len(t.conns) >= t.cfg.Connections && len(t.conns) > 0 {
		t.evict(t.oldest(ended, nil))
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

// oldest is the connection that has to make room, from a rank on and except for
// one that is in use, or nil.
func (t *Tracker) oldest(from rank, except *conn) *conn {
	for r := from; r < ranks; r++ {
		for c := t.lru[r].prev; c != &t.lru[r]; c = c.prev {
			if c != except {
				return c
			}
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

// close ends c. It stays in the table, so that stray packets do not make a new
// connection of it, and what was no FTP stays as long as if it were open: the
// last word on that is a new handshake's.
func (t *Tracker) close(c *conn, why Reason) {
	t.withdrawAll(c, why)
	t.clearOpaque(c)
	t.buffered -= c.session.Buffered()
	c.session.Release()
	c.state |= closed
	if !c.session.NotFTP() {
		t.touch(c, ended)
	}
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

func (c *conn) hosts() Hosts {
	m := c.key.master()
	return Hosts{Client: m.Src.Addr(), Server: m.Dst.Addr()}
}

// setOpaque notes that c, whose addresses NAT leaves alone, went into TLS.
func (t *Tracker) setOpaque(c *conn) {
	if c.state&opaque != 0 {
		return
	}
	c.state |= opaque
	h := c.hosts()
	c.opaque = t.opaque[h]
	t.opaque[h] = c
	t.decision.Opaque = append(t.decision.Opaque, h)
}

// clearOpaque notes that c ended or can be read again.
func (t *Tracker) clearOpaque(c *conn) {
	if c.state&opaque == 0 {
		return
	}
	c.state &^= opaque
	h := c.hosts()
	if head := t.opaque[h]; head != c {
		for head.opaque != c {
			head = head.opaque
		}
		head.opaque = c.opaque
	} else if c.opaque != nil {
		t.opaque[h] = c.opaque
	} else {
		delete(t.opaque, h)
		t.decision.Readable = append(t.decision.Readable, h)
	}
	c.opaque = nil
}

// OpaqueHosts are the hosts between which there is a control connection that went
// into TLS, and whose addresses NAT leaves alone.
func (t *Tracker) OpaqueHosts() iter.Seq[Hosts] { return maps.Keys(t.opaque) }

// IsOpaque reports whether h is one of OpaqueHosts.
func (t *Tracker) IsOpaque(h Hosts) bool { return t.opaque[h] != nil }

// OpaqueMaster returns a control connection of OpaqueHosts between client and
// server, the newest if there are several: the master of data connections whose
// announcement could not be read. A data connection is a sign of its life, which with
// Config.SkipOpaque is the only one.
func (t *Tracker) OpaqueMaster(client, server netip.Addr) (Tuple, bool) {
	c := t.opaque[Hosts{Client: client, Server: server}]
	if c == nil {
		return Tuple{}, false
	}
	t.touch(c, c.rank)
	return c.key.master(), true
}

// Expire withdraws what nobody used in time, and forgets connections that ended a
// while ago and those that nothing was seen on for days. Call it every second or so.
func (t *Tracker) Expire(now time.Time) *Decision {
	t.begin(now)
	for x := t.expected.oldest(); x != nil && x.deadline <= t.clock; x = t.expected.oldest() {
		t.withdraw(x, Expired)
	}
	for r := range t.lru {
		linger := idleLinger
		if rank(r) == ended {
			linger = closedLinger
		}
		ring := &t.lru[r]
		for c := ring.prev; c != ring && t.clock-c.seen > linger; c = ring.prev {
			t.forget(c, Expired)
		}
	}
	return &t.decision
}

// Close withdraws everything.
func (t *Tracker) Close(now time.Time) *Decision {
	t.begin(now)
	for x := t.expected.oldest(); x != nil; x = t.expected.oldest() {
		t.withdraw(x, Closed)
	}
	return &t.decision
}

// SetPolicy changes the policy for what is announced from now on. Expectations
// that stand are left alone.
func (t *Tracker) SetPolicy(p Policy) { t.cfg.Policy = p }

// Stats returns the counters.
func (t *Tracker) Stats() Stats {
	s := t.stats
	s.Connections, s.Outstanding = len(t.conns), t.expected.n
	return s
}
