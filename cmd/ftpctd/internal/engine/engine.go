// Package engine is the packet path: it gives the packets of a queue to the tracker and
// carries the tracker's decisions out. The daemon, "ftpctd replay", the benchmarks and the
// fuzz target run the same one.
package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/event"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

const (
	// expireEvery is how often expectations are checked for their timeout.
	expireEvery = time.Second
	// maxDatagram is about how much is sent at a time: well below the send buffer of any
	// system.
	maxDatagram = 32 << 10
)

// Sequence numbers of the messages that leave with a verdict and are not silent; package
// nfq reserves some. The kernel answers them only to reject them.
const (
	markSeq  = nfq.SeqSilent + 1 + iota
	firstSeq // of expectations and entries
)

// An Admitter makes announced data connections RELATED. It is admit.Expect or
// admit.Entry.
type Admitter interface {
	// AppendExpect admits x with the packet at hand: it appends the message that does so
	// to b, or keeps x for the end of the batch. What the kernel rejects comes to
	// Engine.Rejected with seq, or from the flush.
	AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) ([]byte, error)
	// AppendDelete takes x back likewise, if it is unused.
	AppendDelete(b []byte, seq uint32, x *conntrack.Expectation) []byte
	// Expect admits x and waits for the kernel's answer.
	Expect(x *conntrack.Expectation) error
	// Delete takes x back and waits for the kernel's answer. It fails with ENOENT if x was
	// used.
	Delete(x *conntrack.Expectation) error
}

// Engine handles the packets of one queue; it is an nfq.Handler. Packet, Flush and Rejected
// are called by that queue, one at a time; the rest is safe for concurrent use.
type Engine struct {
	mu      sync.Mutex // guards tracker and waiting
	tracker *conntrack.Tracker
	waiting waiting

	expect   Admitter     // nil in the mode "entry"
	entry    *admit.Entry // nil where no rules queue the first packets of data connections
	ports    []uint16
	tlsPorts conntrack.PortRange
	skipMark uint32
	labels   bool // the rules use them: connections that are skipped get one
	now      func() time.Time
	accept   func(id uint32) error
	send     func(messages []byte) error
	lookup   func(conntrack.Tuple) (conntrack.Connection, error)
	log      *slog.Logger
	limiter  *event.Limiter // of the lines that hosts can cause

	// Of the queue's goroutine. The queue reads buf after mu is free.
	buf      []byte
	seq      uint32
	inFlight [256]inFlight // the last messages that left with a verdict

	expired []byte // the datagram of Expire

	tasks sync.WaitGroup
	stop  chan struct{} // closed when packets are no longer held
}

// Config sets an Engine up.
type Config struct {
	// Tracker sets the tracker up. Its Reopen is set where the rules use labels of
	// connections, its Observe is called after the event was logged.
	Tracker conntrack.Config
	// Expect admits data connections through the kernel's table, in the modes "expect" and
	// "helper". It is nil in the mode "entry".
	Expect Admitter
	// Entry admits all of them in the mode "entry". In the other modes it serves control
	// connections without a helper, clients that have used up their share of the kernel's
	// table, everybody while that is full, and sessions in TLS. It is nil where the daemon
	// does not manage its table.
	Entry *admit.Entry
	// TLSPorts are the server's ports that a client may connect to while its control
	// connection cannot be read. They need Entry.
	TLSPorts conntrack.PortRange
	// SkipMark is the bit of the conntrack mark with which the rules queue no payload of a
	// connection; 0 if there is none.
	SkipMark uint32
	// Now is the clock.
	Now func() time.Time
	// Accept releases a held packet. It is nfq.Queue's. With nil no packet is held: an
	// expectation that may conflict with another one leaves with its packet.
	Accept func(id uint32) error
	// Send sends messages without a packet. It is nfq.Queue's.
	Send func(messages []byte) error
	// Lookup finds the control connection between two ends where packets come without
	// packet.Packet.Conntrack. With nil such packets count as what conntrack has.
	Lookup func(ends conntrack.Tuple) (conntrack.Connection, error)
	Log    *slog.Logger
}

// New makes the engine of a queue.
func New(cfg Config) *Engine {
	e := &Engine{
		expect: cfg.Expect, entry: cfg.Entry, ports: cfg.Tracker.Ports, tlsPorts: cfg.TLSPorts,
		skipMark: cfg.SkipMark, labels: cfg.Tracker.Reopen,
		now: cfg.Now, accept: cfg.Accept, send: cfg.Send, lookup: cfg.Lookup, log: cfg.Log,
		seq: firstSeq, limiter: event.NewLimiter(), stop: make(chan struct{}),
	}
	observe := cfg.Tracker.Observe
	cfg.Tracker.Observe = func(ev conntrack.Event) {
		e.logEvent(ev)
		if observe != nil {
			observe(ev)
		}
	}
	if cfg.Lookup != nil {
		cfg.Tracker.Lookup = e.connection
	}
	cfg.Tracker.Shared = cfg.Expect == nil // the table has one element for all of them
	e.tracker = conntrack.New(cfg.Tracker)
	return e
}

// Packet implements nfq.Handler: it decides on p, and returns the messages that carry the
// decision out.
func (e *Engine) Packet(p *packet.Packet) nfq.Verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.ports, p.Dst.Port()) && !slices.Contains(e.ports, p.Src.Port()) {
		e.buf = e.handleDataSYN(e.buf[:0], p)
		return nfq.Verdict{Before: e.buf}
	}
	p.Zone = ctnetlink.Zone(p.Conntrack)
	now := e.now()
	d := e.tracker.Packet(now, p)
	if d.Idle() {
		return nfq.Verdict{}
	}
	e.updateTLS(d)
	b := e.appendSkip(e.buf[:0], p, d)
	for i := range d.Withdraw {
		b = e.appendWithdraw(b, &d.Withdraw[i])
	}
	held := d.Conflict && e.hold(now, p.ID, d.Expect)
	for i := range d.Expect {
		x := &d.Expect[i]
		if held && !e.viaEntry(x) {
			continue // retryExpect inserts it
		}
		b = e.appendExpect(b, now, x)
		if d.Conflict { // and not held: it counts as admitted unless the kernel rejects it
			e.tracker.Confirm(x)
		}
	}
	e.buf = b
	return nfq.Verdict{Before: b, Hold: held}
}

// appendExpect admits x with the packet at hand.
func (e *Engine) appendExpect(b []byte, now time.Time, x *conntrack.Expectation) []byte {
	b, err := e.admitter(x).AppendExpect(b, e.seq, x)
	if err != nil {
		e.reject(now, x, err)
		return b
	}
	if !e.viaEntry(x) {
		e.recordSent(inFlight{x: *x})
	}
	return b
}

// appendWithdraw takes x back with the packet at hand.
func (e *Engine) appendWithdraw(b []byte, x *conntrack.Expectation) []byte {
	if !e.viaEntry(x) && e.tracker.Conflicts(x) {
		// By the time that the verdict leaves, the kernel may have the other one.
		e.withdrawLater(x)
		return b
	}
	// If the kernel rejects it, x was used: there is nothing left to do.
	return e.admitter(x).AppendDelete(b, nfq.SeqSilent, x)
}

// viaEntry reports whether x is for an entry, and not for the kernel's table.
func (e *Engine) viaEntry(x *conntrack.Expectation) bool { return e.expect == nil || x.Overflow }

func (e *Engine) admitter(x *conntrack.Expectation) Admitter {
	if e.viaEntry(x) {
		return e.entry
	}
	return e.expect
}

// Flush implements nfq.Handler: the data connections that the packets at hand announced or
// withdrew change the table in one transaction.
func (e *Engine) Flush() {
	if e.entry == nil {
		return
	}
	expected, others, err := e.entry.Flush()
	if err == nil {
		return
	}
	now := e.now()
	e.mu.Lock()
	for i := range expected {
		e.reject(now, &expected[i], err)
	}
	e.mu.Unlock()
	if others && e.mayWarn(now, warnTable, "", netip.Addr{}) {
		e.log.Warn("cannot change the sets of data connections", "err", err)
	}
}

// appendSkip labels and marks the connection of p if it is to be skipped. When a connection
// begins, both are removed: conntrack may reuse the entry of an earlier one between the
// same ends.
func (e *Engine) appendSkip(b []byte, p *packet.Packet, d *conntrack.Decision) []byte {
	label := e.labels && (d.Skip || d.Reopened)
	mark := e.skipMark != 0 && (d.Skip || d.NewConn)
	if !label && !mark {
		return b
	}
	t := conntrack.Tuple{Src: p.Src, Dst: p.Dst} // either direction will do
	if c, ok := e.connection(p, t); ok {
		t = c.Original
	}
	if label {
		// A connection that is older than the rules cannot have labels.
		b = ctnetlink.AppendUnread(b, nfq.SeqSilent, p.Zone, t, d.Skip)
	}
	switch {
	case !mark:
		return b
	case d.Skip:
		return ctnetlink.AppendMark(b, markSeq, p.Zone, t, e.skipMark, e.skipMark)
	default:
		return ctnetlink.AppendMark(b, nfq.SeqSilent, p.Zone, t, 0, e.skipMark)
	}
}

// connection is conntrack.Config's Lookup. The attributes of the packet are right behind
// any NAT; the kernel can be asked only for a connection of which NAT has changed one side
// at most.
func (e *Engine) connection(p *packet.Packet, ends conntrack.Tuple) (c conntrack.Connection, ok bool) {
	var err error
	switch {
	case p.Conntrack != nil:
		err = ctnetlink.ParseConnection(p.Conntrack, &c)
	case e.lookup != nil:
		c, err = e.lookup(ends)
	default:
		return c, false
	}
	return c, err == nil // without it, the kernel will report the reason
}

// Run calls Expire and refreshes the sessions in TLS, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	refresh := time.NewTicker(refreshTLSEvery)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-expire.C:
			e.Expire()
		case <-refresh.C:
			e.ReinstallTLS()
		}
	}
}

// Expire withdraws the expectations that nobody has used in time, and ends the admission
// for sessions in TLS that are forgotten. It is called every second. It does not wait for
// the kernel's answers about the former: packets wait meanwhile, because an expectation
// may be announced again as soon as they are handled. Elements of the table expire.
func (e *Engine) Expire() {
	e.mu.Lock()
	now := e.now()
	d := e.tracker.Expire(now)
	if e.servesTLS() {
		for _, h := range d.TLSEnded {
			e.applyTLS(h)
		}
	}
	unsent := e.sendWithdrawals(d.Withdraw)
	e.mu.Unlock()
	// The tracker has forgotten them, and Close will not withdraw them.
	for i := range unsent {
		e.withdraw(&unsent[i])
	}
	e.logSuppressed(now)
}

// sendWithdrawals sends the messages that take expectations back, and returns those of
// the datagrams that could not be sent.
func (e *Engine) sendWithdrawals(expectations []conntrack.Expectation) (unsent []conntrack.Expectation) {
	b, from := e.expired[:0], 0
	for i := range expectations {
		if x := &expectations[i]; !e.viaEntry(x) {
			b = e.appendWithdraw(b, x)
		}
		if len(b) >= maxDatagram || i == len(expectations)-1 && len(b) > 0 {
			if e.send(b) != nil {
				unsent = append(unsent, expectations[from:i+1]...)
			}
			b, from = b[:0], i+1
		}
	}
	e.expired = b
	return unsent
}

// Use consumes the expectation that the first packet of a data connection from src to dst
// meets, and reports whether there is one. It is for callers that see the kernel do so.
func (e *Engine) Use(src, dst netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.tracker.Consume(src, dst)
	return ok
}

// Close releases the packets that are held and withdraws all expectations. No packet may
// come after it.
func (e *Engine) Close() {
	close(e.stop)
	e.tasks.Wait()
	e.mu.Lock()
	now := e.now()
	withdraw := slices.Clone(e.tracker.Close(now).Withdraw)
	e.mu.Unlock()
	for i := range withdraw {
		e.withdraw(&withdraw[i])
	}
	e.logRest(now)
}

// SetPolicy changes the policy for later announcements.
func (e *Engine) SetPolicy(p conntrack.Policy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tracker.SetPolicy(p)
}

// Stats returns the tracker's counters.
func (e *Engine) Stats() conntrack.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tracker.Stats()
}
