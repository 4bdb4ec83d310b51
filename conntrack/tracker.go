package conntrack

import (
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
	// Lookup asks conntrack for the connection of p, whose client and server are ends. It
	// is called for each SYN/ACK that may open a control connection, for each connection
	// of Older, and for the next line that announces an endpoint after the kernel has
	// refused an expectation: NAT stays as it is for as long as conntrack has the
	// connection. What it does not confirm is not read. With nil every handshake counts,
	// and there is no NAT.
	Lookup func(p *packet.Packet, ends Tuple) (Connection, bool)
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

	conns    connTable
	expected expectationTable
	refused  refusedPorts
	sources  map[sourceKey]*source
	opaque   map[Hosts]*conn // the newest of those that cannot be read for TLS
	holders  links           // ring of the connections that hold buffers, the oldest last
	buffered int             // bytes that they hold

	packet   *packet.Packet // while Packet reads it
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
		cfg: cfg, opaque: make(map[Hosts]*conn), sources: make(map[sourceKey]*source),
	}
	t.holders.next, t.holders.prev = &t.holders, &t.holders
	t.conns.init(cfg.Connections)
	t.expected.init()
	return t
}

// Packet takes the next packet of a control connection. now must not go back.
func (t *Tracker) Packet(now time.Time, p *packet.Packet) *Decision {
	t.stats.Packets++
	t.packet = p
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
		return ftpparse.DirOriginal, t.conns.find(&original), original
	}
	reply := keyOf(p.Dst, p.Src)
	reply.zone = p.Zone
	if !toServer {
		return ftpparse.DirReply, t.conns.find(&reply), reply
	}
	switch p.Flags & (packet.SYN | packet.ACK) {
	case packet.SYN:
		return ftpparse.DirOriginal, t.conns.find(&original), original
	case packet.SYN | packet.ACK:
		return ftpparse.DirReply, t.conns.find(&reply), reply
	}
	if c := t.conns.find(&reply); t.conns.find(&original) == nil && (c != nil || t.cfg.Older.has(&reply)) {
		return ftpparse.DirReply, c, reply
	}
	return ftpparse.DirOriginal, t.conns.find(&original), original
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

func (t *Tracker) observe(e Event) {
	if t.cfg.Observe != nil {
		e.Time = t.now
		t.cfg.Observe(e)
	}
}

// Expire withdraws what nobody used in time, and forgets connections that ended a
// while ago and those that nothing was seen on for days. Call it every second or so.
func (t *Tracker) Expire(now time.Time) *Decision {
	t.begin(now)
	for x := t.expected.oldest(); x != nil && x.deadline <= t.clock; x = t.expected.oldest() {
		t.withdraw(x, Expired)
	}
	t.refused.expire(t.clock)
	for r := range t.conns.lru {
		ring, linger := &t.conns.lru[r], rank(r).linger()
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
	s.Connections, s.Outstanding = t.conns.n, t.expected.n
	return s
}
