package conntrack

import (
	"slices"
	"time"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// Limits that are not configurable.
const (
	// maxExpectations bounds the expectations of all control connections together; the
	// kernel's own limit is nf_conntrack_expect_max.
	maxExpectations = 1 << 16
	// maxBuffered bounds the bytes buffered for incomplete lines and out-of-order
	// segments of all control connections together.
	maxBuffered = 64 << 20
	// maxLines bounds the announcements of one packet that count (unless one control
	// connection may have more expectations), and its rejections that are reported one by
	// one.
	maxLines = 16
	// dataPort is the source port of active data connections (RFC 959 section 3.2). A
	// connection from it is never a control connection, even to a control port.
	dataPort = 20
)

// Config configures a Tracker.
type Config struct {
	// Ports are the control ports; the side with one of them is the server.
	Ports []uint16
	// Policy decides which announced endpoints may be expected.
	Policy Policy
	// Connections is the size of the table. When it is full, closed connections are
	// evicted first, then skipped ones, then the least recently used one without payload,
	// then one with payload from one side only, then the least recently used of the
	// others. One client (an IPv4 address or an IPv6 /64) may have a quarter of them.
	Connections int
	// MaxExpected bounds the unused expectations of one control connection; the oldest
	// is withdrawn for a new one.
	MaxExpected int
	// Timeout is the lifetime of an unused expectation.
	Timeout time.Duration
	// KernelShare bounds the expectations of one client in the kernel's table; further
	// ones are marked Overflow. 0 means no bound.
	KernelShare int
	// Shared reports that several control connections may expect the same tuple at a
	// time, unlike in the kernel's table: there is no Conflict, and the expectation of a
	// tuple is withdrawn with the last of them.
	Shared bool
	// SkipOpaque skips a connection that switched to TLS until it closes: its return to
	// clear text goes unnoticed.
	SkipOpaque bool
	// Lookup asks conntrack for the connection of p, whose client and server are ends. It
	// is called for each SYN/ACK that may open a control connection, for each connection
	// of Older, and for the first announcement after the kernel rejected an expectation;
	// otherwise NAT does not change as long as conntrack has the connection. Connections
	// that it does not confirm are skipped. Without it every handshake counts, and there
	// is no NAT.
	Lookup func(p *packet.Packet, ends Tuple) (Connection, bool)
	// Reopen accepts a handshake on a connection of which conntrack has seen one before,
	// as where a client reuses its port. Conntrack accepts any SYN as the first half of
	// it: set Reopen only where nobody but the client can have sent that SYN.
	Reopen bool
	// Older are the connections that may be picked up in the middle; nil for none.
	Older *Older
	// Observe is called for each event, in the caller's goroutine; nil for none.
	Observe func(Event)
}

// Stats are the counters of a Tracker since New.
type Stats struct {
	Packets     uint64 // passed to Packet
	Sessions    uint64 // control connections opened
	Expected    uint64 // expectations
	Rejected    uint64 // announcements rejected
	Withdrawn   uint64 // expectations withdrawn
	Opaque      uint64 // sessions that switched to TLS
	NotFTP      uint64 // connections that were not FTP
	Unseen      uint64 // connections whose handshake was not seen
	Gaps        uint64 // losses of bytes within a session
	Evicted     uint64 // connections evicted by newer ones
	Connections int    // currently in the table
	Outstanding int    // current expectations
}

// Tracker is the table of control connections and of the data connections they expect.
// It is not safe for concurrent use.
type Tracker struct {
	cfg   Config
	stats Stats

	conns        connTable
	expected     expectationTable
	controlPorts announcedControlPorts
	sources      map[sourceKey]*source
	opaque       map[HostPair]*conn // the newest opaque connection of the hosts
	holders      links              // ring of the connections with buffers, the oldest last
	buffered     int                // bytes in these buffers

	now      time.Time
	start    time.Time      // the first now
	clock    time.Duration  // from start to now; as now is monotonic, setting the clock ages nothing
	packet   *packet.Packet // while Packet runs
	events   []ftpparse.Event
	decision Decision
	// unconfirmed is set once conntrack did not confirm the connection of the packet: it
	// is asked once, however many lines the packet has.
	unconfirmed bool
	closing     bool
}

// New returns a Tracker without connections.
func New(cfg Config) *Tracker {
	t := &Tracker{cfg: cfg, opaque: make(map[HostPair]*conn), sources: make(map[sourceKey]*source)}
	t.holders.next, t.holders.prev = &t.holders, &t.holders
	t.conns.init(cfg.Connections)
	t.expected.init()
	return t
}

// Packet processes the next packet of a control connection. now must not decrease.
func (t *Tracker) Packet(now time.Time, p *packet.Packet) *Decision {
	t.stats.Packets++
	t.packet = p
	t.begin(now)
	dir, c, key := t.lookup(p)
	if key.clientPort == dataPort {
		return &t.decision
	}
	if c == nil && p.Flags&(packet.SYN|packet.FIN|packet.RST) != 0 {
		// An older connection closes, or its hosts open another one, which may well get
		// its ID: that is computed from the tuples and the entry's memory address
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
	t.decision.reset()
	t.unconfirmed = false
}

// lookup returns the connection of p and the direction of p. If both ports are control
// ports, the handshake decides on the direction, which conntrack has to confirm; for
// other packets it is that of the known or older connection, of which there is only one.
func (t *Tracker) lookup(p *packet.Packet) (ftpparse.Direction, *conn, connKey) {
	toServer := slices.Contains(t.cfg.Ports, p.Dst.Port())
	toClient := slices.Contains(t.cfg.Ports, p.Src.Port())
	original := keyOf(p.Src, p.Dst)
	original.zone = p.Zone
	if !toClient {
		return ftpparse.DirOriginal, t.conns.find(&original), original
	}
	reply := original.reverse()
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

// reset handles a RST. As in RFC 5961 section 3.2, only a RST with exactly the expected
// sequence number closes the connection: otherwise a forged one could end the inspection
// of a session that goes on. After a FIN, a RST with the sequence number of the FIN
// closes it, too, as in Linux (tcp_reset_check of net/ipv4/tcp_input.c): this is how a
// host that has closed answers segments sent before its FIN arrived. The expected number
// of a skipped connection is unknown, and its successor is skipped as well: any RST
// closes it.
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

// segment handles payload and FIN.
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
		t.sawPayload(c, dir)
	}
	fin := p.Flags&packet.FIN != 0
	if c.state&skipped == 0 {
		t.parse(c, p, dir)
		if c.state&skipped == 0 {
			// A FIN out of sequence closes nothing: its receiver drops it as well.
			fin = c.session.Finished(dir)
		}
	}
	if !fin {
		return
	}
	if dir == ftpparse.DirOriginal {
		c.state |= clientFIN
	} else {
		c.state |= serverFIN
	}
	if c.state&(clientFIN|serverFIN) == clientFIN|serverFIN {
		t.close(c, Closed)
	}
}

// parse passes a segment to the session of c and handles its events.
func (t *Tracker) parse(c *conn, p *packet.Packet, dir ftpparse.Direction) {
	if c.state&handshake != 0 && dir == ftpparse.DirOriginal && len(p.Payload) > 1 && int32(p.Seq-c.isn[0]) < 0 {
		// The acknowledgement number of the SYN/ACK was too high, to keep the client's
		// first bytes from inspection; conntrack accepts that with
		// nf_conntrack_tcp_be_liberal. One byte is a keep-alive (RFC 9293 section 3.8.4).
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
	t.handleEvents(c)
	for t.buffered > maxBuffered {
		t.stats.Evicted++
		oldest := t.holders.prev.conn
		t.skip(oldest, Evicted)
		t.decision.Skip = t.decision.Skip || oldest == c
	}
}

// sawPayload notes payload from one side. Once there is some from both, c counts against
// its client's share of the table.
func (t *Tracker) sawPayload(c *conn, dir ftpparse.Direction) {
	if dir == ftpparse.DirOriginal {
		c.state |= clientPayload
	} else {
		c.state |= serverPayload
	}
	switch both := c.state&(clientPayload|serverPayload) == clientPayload|serverPayload; {
	case c.rank == rankSilent && !both:
		t.touch(c, rankUnreplied)
	case (c.rank == rankSilent || c.rank == rankUnreplied) && both:
		if !t.charge(c) {
			t.skipCurrent(c, ClientLimit)
			return
		}
		t.touch(c, rankAssured)
	}
}

func (t *Tracker) observe(e Event) {
	if t.cfg.Observe != nil {
		e.Time = t.now
		t.cfg.Observe(e)
	}
}

// Expire withdraws expectations that were not used before their timeout, and forgets
// connections that closed a while ago or were idle for days. Call it about every second.
func (t *Tracker) Expire(now time.Time) *Decision {
	t.begin(now)
	for x := t.expected.oldest(); x != nil && x.deadline <= t.clock; x = t.expected.oldest() {
		t.withdraw(x, Expired)
	}
	t.controlPorts.expire(t.clock)
	for r := range t.conns.lru {
		ring, timeout := &t.conns.lru[r], rank(r).timeout()
		for c := ring.prev; c != ring && t.clock-c.seen > timeout; c = ring.prev {
			t.forget(c, Expired)
		}
	}
	return &t.decision
}

// Close withdraws all expectations, including those that another control connection may
// have replaced in the kernel: no later call will.
func (t *Tracker) Close(now time.Time) *Decision {
	t.begin(now)
	t.closing = true
	for x := t.expected.oldest(); x != nil; x = t.expected.oldest() {
		t.withdraw(x, Closed)
	}
	return &t.decision
}

// SetPolicy sets the policy for later announcements. Existing expectations are kept.
func (t *Tracker) SetPolicy(p Policy) { t.cfg.Policy = p }

// Stats returns the counters.
func (t *Tracker) Stats() Stats {
	s := t.stats
	s.Connections, s.Outstanding = t.conns.n, t.expected.n
	return s
}
