package conntrack

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// Bounds that are not the administrator's to choose.
const (
	// maxExpectations bounds the expectations of all control connections
	// together; the kernel's own bound is nf_conntrack_expect_max.
	maxExpectations = 1 << 16
	// maxBuffered bounds the bytes held for incomplete lines and out-of-order
	// segments of all control connections together.
	maxBuffered = 64 << 20
	// maxLines is how many announcements of a packet count, or as many as a control
	// connection may have expectations, and how many refusals are told one by one.
	maxLines = 16
	// dataPort is where servers open data connections from (RFC 959 section 3.2). Such
	// a connection is never a control connection, even if it goes to a control port.
	dataPort = 20
	// sourceShare is the part of the table's connections, and of all expectations,
	// that one client may have: 1/sourceShare.
	sourceShare = 4
	// closedLinger is how long an ended connection stays in the table: as long as the
	// kernel keeps it in TIME_WAIT. Stray packets then do not count as those of a
	// connection whose beginning was not seen.
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
	// Connections bounds the table. What has ended gives way first, then what is not
	// read, then the least recently used connection on which neither side has spoken,
	// then one on which one side has yet to speak, then the least recently used of the
	// others. A quarter of them is the share of one client: an IPv4 address or an IPv6
	// network of 64 bits.
	Connections int
	// MaxExpected bounds the unused expectations of one control connection; the
	// oldest gives way.
	MaxExpected int
	// Timeout is how long an unused expectation stands.
	Timeout time.Duration
	// KernelShare bounds the expectations that one client may have in the kernel's
	// table; those beyond it are marked Overflow. 0 is no bound.
	KernelShare int
	// Shared tells that several control connections may expect the same tuple at a
	// time, which the kernel's table does not take: none is Contested, and what
	// stands for the tuple is withdrawn with the last of them.
	Shared bool
	// SkipOpaque leaves a connection that went into TLS unread until its end: it
	// is not noticed if it returns to clear text.
	SkipOpaque bool
	// Lookup asks conntrack for the connection between ends, of the packet that the
	// Tracker was given last. It is called for each SYN/ACK that may open a control
	// connection, for each connection of Older, and for the next line that announces an
	// endpoint after the kernel has refused an expectation: NAT stays as it is for as
	// long as conntrack has the connection. What it does not confirm is not read. With
	// nil every handshake counts, and there is no NAT.
	Lookup func(ends Tuple) (Connection, bool)
	// Reopen lets a handshake count that conntrack sees on a connection which had one
	// already, as where a client reuses its port. Conntrack takes any SYN for the first
	// half of it: set it only where nobody but the client can have sent that SYN.
	Reopen bool
	// Older are the connections that may be picked up in the middle; nil for none.
	Older *Older
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
	Unseen      uint64 // connections whose beginning was not seen
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

	expected   expectationTable
	refused    refusedPorts
	sources    map[sourceKey]*source
	opaque     map[Hosts]*conn // the newest of those that cannot be read for TLS
	holders    holder          // ring of the connections that hold buffers, the oldest last
	freeHolder *holder
	buffered   int // bytes that they hold

	now      time.Time
	start    time.Time     // the first now
	clock    time.Duration // from start to now: where now is monotonic, setting the clock ages nothing
	events   []ftpparse.Event
	decision Decision
	// unconfirmed tells that conntrack does not confirm the connection of the packet: it
	// is asked once, however many lines the packet has.
	unconfirmed bool
	closing     bool
}

// New makes a Tracker.
func New(cfg Config) *Tracker {
	t := &Tracker{
		cfg: cfg, conns: make(map[connKey]*conn), opaque: make(map[Hosts]*conn),
		sources: make(map[sourceKey]*source),
	}
	t.holders.next, t.holders.prev = &t.holders, &t.holders
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

// Packet takes the next packet of a control connection. now must not go back.
func (t *Tracker) Packet(now time.Time, p *packet.Packet) *Decision {
	t.stats.Packets++
	t.begin(now)
	dir, c, key := t.lookup(p)
	if key.clientPort == dataPort {
		return &t.decision
	}
	if c == nil && p.Flags&(packet.SYN|packet.FIN|packet.RST) != 0 {
		// An older connection ends, or its ends begin another one, which may well get
		// its ID: that is made of the tuples and of the entry's place in memory
		// (nf_ct_get_id of net/netfilter/nf_conntrack_core.c).
		t.cfg.Older.take(&key)
	}
	switch {
	case p.Flags&packet.RST != 0:
		t.reset(c, p, dir)
	case p.Flags&packet.SYN == 0:
		t.segment(c, key, p, dir)
	case p.Flags&packet.ACK == 0:
		t.syn(c, key, p, dir)
	case dir == ftpparse.DirReply:
		t.synAck(c, key, p)
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
	t.decision.Contested, t.decision.Anew, t.decision.Reopened, t.decision.Skip = false, false, false, false
	t.unconfirmed = false
}

// lookup finds the connection of p and the direction p travels in. Where both
// ports are control ports, the handshake decides, which conntrack has to confirm; of
// other packets the connection that is known or older, of which there is only one.
func (t *Tracker) lookup(p *packet.Packet) (ftpparse.Direction, *conn, connKey) {
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
	switch p.Flags & (packet.SYN | packet.ACK) {
	case packet.SYN:
		return ftpparse.DirOriginal, t.conns[original], original
	case packet.SYN | packet.ACK:
		return ftpparse.DirReply, t.conns[reply], reply
	}
	if c := t.conns[reply]; t.conns[original] == nil && (c != nil || t.cfg.Older.has(&reply)) {
		return ftpparse.DirReply, c, reply
	}
	return ftpparse.DirOriginal, t.conns[original], original
}

// syn notes a SYN with payload (TCP Fast Open). What a client says before the server
// has answered is not read, and the server may acknowledge any part of it: it would
// choose where in the client's stream reading begins. That holds for what has ended
// between the same ends, too. Other SYNs open nothing: a table that SYNs alone can fill
// is one that a flood empties of real sessions.
func (t *Tracker) syn(c *conn, key connKey, p *packet.Packet, dir ftpparse.Direction) {
	if len(p.Payload) == 0 || dir != ftpparse.DirOriginal {
		return
	}
	if c == nil {
		c = t.insert(key, silent)
		c.state |= closed
	}
	c.state |= synData
}

// synAck opens the connection, if conntrack has it from its handshake on: it saw the
// client's SYN and takes p for the answer. A SYN/ACK that comes later is one that the
// server sends unasked, so that what was found not to be FTP is read again, from a place
// of its choice.
func (t *Tracker) synAck(c *conn, key connKey, p *packet.Packet) {
	client, server := p.Ack, p.Seq+1
	if c != nil && c.state&(handshake|closed) == handshake && c.isn == [2]uint32{client, server} {
		return // repeated
	}
	nat, ok, again := t.opening(key)
	if again && !t.cfg.Reopen {
		if c != nil && c.state&(closed|skipped) == 0 {
			t.giveUp(c, NotSeenFromStart)
		}
		return
	}
	if !ok {
		return
	}
	t.cfg.Older.take(&key)
	switch {
	case t.refused.has(&key, t.clock):
		if c == nil {
			c = t.insert(key, unread)
		}
		t.giveUp(c, ControlPort)
		return
	case c == nil:
		c = t.insert(key, silent)
	case c.state&synData != 0:
		t.giveUp(c, NotSeenFromStart)
		return
	default:
		if c.state&closed == 0 {
			t.close(c, Closed)
		}
		t.release(c)
		t.touch(c, silent)
	}
	if other := t.conns[key.turned()]; other != nil { // where both ports are control ports
		t.forget(other, Closed)
	}
	c.state, c.nat = handshake|lookedUp, nat
	c.isn = [2]uint32{client, server}
	c.session.Start(client, server)
	t.decision.Anew, t.decision.Reopened = true, again
	t.open(c, "")
}

func (t *Tracker) open(c *conn, why Reason) {
	t.stats.Sessions++
	t.observe(Event{Kind: EventOpen, Master: c.key.master(), Reason: why})
}

// opening asks conntrack whether key is a control connection of which the client's SYN
// and the server's answer were seen, and nothing else yet. again reports that it had its
// handshake already: conntrack takes the SYN/ACK for the answer to a SYN that came in the
// middle. Who sent that is unknown, and what follows is not the session that was read.
func (t *Tracker) opening(key connKey) (nat *Connection, ok, again bool) {
	if t.cfg.Lookup == nil {
		return nil, true, false
	}
	found, ok := t.control(&key)
	if !ok || found.State != StateSynRecv {
		return nil, false, false
	}
	return found.translation(key.zone), true, found.Assured
}

// control asks conntrack for the connection key. ok is false if it is no control
// connection whose client key names.
func (t *Tracker) control(key *connKey) (found Connection, ok bool) {
	ends := key.master()
	found, ok = t.cfg.Lookup(ends)
	return found, ok && found.isControl(ends)
}

// pickUp adds a connection that was there before the Tracker, once. What nobody
// vouches for is not read: who sends it chose where its reader begins. It returns nil
// where only a session could make room for the note of that.
func (t *Tracker) pickUp(key connKey) *conn {
	id, ok := t.cfg.Older.take(&key)
	var nat *Connection
	if ok && t.cfg.Lookup != nil {
		var found Connection
		found, ok = t.control(&key)
		ok = ok && found.Assured && found.ID == id
		nat = found.translation(key.zone)
	}
	if !ok {
		if oldest := t.oldest(); len(t.conns) >= t.cfg.Connections && oldest != nil && oldest.rank > unread {
			t.stats.Unseen++
			return nil
		}
		c := t.insert(key, unread)
		t.giveUp(c, NotSeenFromStart)
		return c
	}
	c := t.insert(key, unassured)
	c.state, c.nat = lookedUp, nat
	t.open(c, ftpparse.PickedUp)
	return c
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

// reset takes a RST that is in its place. One that is only close to it does not
// end the connection for its receiver (RFC 5961 section 3.2), and must not end it
// here: the session would go unread. Behind a FIN the place of the FIN will do, as it
// does for Linux (tcp_reset_check of net/ipv4/tcp_input.c): a host that has closed
// answers so to what was sent before its FIN had come. Of what is skipped the place is
// not known; what comes after the end of that is not read either.
func (t *Tracker) reset(c *conn, p *packet.Packet, dir ftpparse.Direction) {
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
func (t *Tracker) segment(c *conn, key connKey, p *packet.Packet, dir ftpparse.Direction) {
	if c == nil {
		if len(p.Payload) == 0 {
			return
		}
		if c = t.pickUp(key); c == nil {
			return
		}
	} else {
		t.touch(c, c.rank)
	}
	if c.state&closed != 0 {
		return
	}
	if len(p.Payload) > 0 {
		t.spoke(c, dir)
	}
	fin := p.Flags&packet.FIN != 0
	if c.state&skipped == 0 {
		t.read(c, p, dir)
		if c.state&skipped == 0 {
			// A FIN out of its place ends nothing: its receiver drops it as well.
			fin = c.session.Finished(dir)
		}
	}
	if fin {
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
func (t *Tracker) read(c *conn, p *packet.Packet, dir ftpparse.Direction) {
	if c.state&handshake != 0 && dir == ftpparse.DirOriginal && len(p.Payload) > 1 && int32(p.Seq-c.isn[0]) < 0 {
		// The SYN/ACK lied about where the client begins (conntrack lets it pass
		// with nf_conntrack_tcp_be_liberal), to have what comes first go unread. One
		// byte is a keep-alive (RFC 9293 section 3.8.4).
		server, _ := c.session.Next(ftpparse.DirReply)
		c.isn[0] = p.Seq
		c.session.Start(p.Seq, server)
	}
	c.session.LoginOptional = !t.cfg.Policy.RequireLogin
	t.events = c.session.Segment(t.events[:0], ftpparse.Segment{
		Dir: dir, Seq: p.Seq, Ack: p.Ack, HasAck: p.Flags&packet.ACK != 0,
		FIN: p.Flags&packet.FIN != 0, Payload: p.Payload,
	})
	t.countBuffers(c)
	t.act(c)
	for t.buffered > maxBuffered {
		t.stats.Evicted++
		holder := t.holders.prev.conn
		t.abandon(holder, Evicted)
		t.decision.Skip = t.decision.Skip || holder == c
	}
}

// spoke notes that payload came from one side.
func (t *Tracker) spoke(c *conn, dir ftpparse.Direction) {
	if dir == ftpparse.DirOriginal {
		c.state |= clientSpoke
	} else {
		c.state |= serverSpoke
	}
	switch both := c.state&(clientSpoke|serverSpoke) == clientSpoke|serverSpoke; {
	case c.rank == silent && !both:
		t.touch(c, unassured)
	case (c.rank == silent || c.rank == unassured) && both:
		if !t.charge(c) {
			t.giveUp(c, ClientLimit)
			return
		}
		t.touch(c, assured)
	}
}

// act acts on what a session has read in a packet. Honest ones announce an endpoint or
// two; of a packet full of them those are passed over that would not last to its end,
// and refusals are counted.
func (t *Tracker) act(c *conn) {
	announced, rejected, most := 0, 0, max(maxLines, t.cfg.MaxExpected)
	for i := range t.events {
		if t.events[i].Kind == ftpparse.Announced {
			announced++
		}
	}
	for i := range t.events {
		e := &t.events[i]
		switch e.Kind {
		case ftpparse.Announced:
			if announced--; announced >= most {
				continue
			}
		case ftpparse.Rejected:
			if slices.Contains(t.cfg.Ports, e.Endpoint.Port()) {
				t.refuse(c, e.Via, e.Endpoint.Port()) // the other side may not be as strict
			}
			if rejected++; rejected > maxLines {
				t.stats.Rejected++
				continue
			}
		}
		t.event(c, e)
	}
}

// event acts on what a session has read.
func (t *Tracker) event(c *conn, e *ftpparse.Event) {
	switch e.Kind {
	case ftpparse.Announced:
		connection, ok := t.connection(c)
		tuple, why := t.cfg.Policy.Judge(&connection, e)
		port := tuple.Dst.Port()
		isControl := port == connection.Original.Dst.Port() || slices.Contains(t.cfg.Ports, port)
		if isControl {
			t.refuse(c, e.Via, port)
		}
		switch {
		case why != "":
		case isControl:
			why = ControlPort
		case !ok:
			why = NoMaster
		case !t.hasRoom(c):
			why = ClientLimit
		}
		if why != "" {
			t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: why})
			return
		}
		if x := connection.expectation(tuple, e.Via); t.expected.crowded(&x) {
			t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: Clash})
		} else {
			t.expect(c, x)
		}
	case ftpparse.Rejected:
		master := c.key.master()
		t.reject(Event{Master: master, Via: e.Via, Tuple: asked(master, e), Reason: e.Reason})
	case ftpparse.Withdrawn:
		for x := c.newest; x != nil; {
			older := x.older
			if e.Via == ftpparse.ViaNone || e.Via == ftpparse.DefaultPort && x.Via == e.Via || x.Via.Active() == e.Via.Active() && x.Tuple.Dst.Port() == e.Endpoint.Port() {
				t.withdraw(x, e.Reason)
			}
			x = older
		}
	case ftpparse.Opaque:
		t.stats.Opaque++
		why := e.Reason
		if connection, ok := t.connection(c); !ok || connection.readdressed() {
			why = Translated
		} else {
			t.setOpaque(c)
		}
		if t.cfg.SkipOpaque {
			c.state |= skipped
			t.decision.Skip = true
		}
		t.observe(Event{Kind: EventOpaque, Master: c.key.master(), Reason: why})
	case ftpparse.NotFTP:
		t.stats.NotFTP++
		t.withdrawAll(c, NotAnFTPSession)
		t.giveUp(c, e.Reason)
	case ftpparse.Cleared:
		t.clearOpaque(c)
	case ftpparse.Gap:
		t.stats.Gaps++
	}
}

// connection is c as conntrack has it. ok is false if conntrack has it no more, or has
// another one, or has it the other way round because it picked the connection up in
// the middle: nothing can be expected of that.
func (t *Tracker) connection(c *conn) (_ Connection, ok bool) {
	ends := c.key.master()
	if c.state&lookedUp == 0 && t.cfg.Lookup != nil {
		if t.unconfirmed {
			return untranslated(c.key.zone, ends), false
		}
		found, ok := t.control(&c.key)
		if !ok {
			t.unconfirmed = true
			return untranslated(c.key.zone, ends), false
		}
		c.state |= lookedUp
		c.nat = found.translation(c.key.zone)
	}
	if c.nat != nil {
		return *c.nat, true
	}
	return untranslated(c.key.zone, ends), true
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
	if c.older = t.opaque[h]; c.older != nil {
		c.older.newer = c
	}
	t.opaque[h] = c
	t.decision.Opaque = append(t.decision.Opaque, h)
}

// clearOpaque notes that c ended or can be read again.
func (t *Tracker) clearOpaque(c *conn) {
	if c.state&opaque == 0 {
		return
	}
	c.state &^= opaque
	if c.older != nil {
		c.older.newer = c.newer
	}
	switch h := c.hosts(); {
	case c.newer != nil:
		c.newer.older = c.older
	case c.older != nil:
		t.opaque[h] = c.older
	default:
		delete(t.opaque, h)
		t.decision.Readable = append(t.decision.Readable, h)
	}
	c.older, c.newer = nil, nil
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
	t.refused.expire(t.clock)
	for r := range t.lru {
		ring, linger := &t.lru[r], rank(r).linger()
		for c := ring.prev; c != ring && t.clock-c.seen > linger; c = ring.prev {
			t.forget(c, Expired)
		}
	}
	return &t.decision
}

// Close withdraws everything, also what another control connection may have taken the
// place of: nobody will tell any more.
func (t *Tracker) Close(now time.Time) *Decision {
	t.begin(now)
	t.closing = true
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
