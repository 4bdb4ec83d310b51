// Package engine is the daemon's packet path: it gives the packets of a queue to
// the tracker, and the tracker's decisions to the kernel.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

const (
	// holdFor is how long a packet is held for an expectation that another
	// control connection has not used yet; retryEvery is how often it is tried.
	holdFor    = 200 * time.Millisecond
	retryEvery = 5 * time.Millisecond
	// maxHeld bounds the packets that are held at a time. The next one moves on,
	// while its expectation is tried all the same.
	maxHeld = 64
	// opaqueFor is how long the data connections of a session in TLS are queued
	// unless that is renewed, which happens every renewEvery. It ends what a daemon
	// that was killed could not end.
	opaqueFor  = 24 * time.Hour
	renewEvery = time.Hour
	// expireEvery is how often unused expectations are looked through.
	expireEvery = time.Second
	// maxDatagram is about how much is sent at a time: well below what the send
	// buffer of any system takes.
	maxDatagram = 32 << 10
)

// Sequence numbers of the messages that travel with a verdict and are not silent;
// package nfq reserves some. The kernel answers them only to refuse.
const (
	markSeq  = nfq.SeqSilent + 1 + iota
	firstSeq // of expectations and entries
)

// Accept releases a held packet. It is nfq.Queue's.
type Accept func(id uint32) error

// Send sends messages that go with no packet. It is nfq.Queue's.
type Send func(messages []byte) error

// Engine handles the packets of one queue. Packet and Refused are called by that
// queue, one at a time; the rest is safe for concurrent use.
type Engine struct {
	mu      sync.Mutex // guards tracker
	tracker *conntrack.Tracker

	kernel   conntrack.Admitter
	entry    *Entry // nil where no rules queue the first packets of data connections
	ports    []uint16
	tlsPorts conntrack.PortRange
	skipMark uint32
	accept   Accept
	send     Send
	lookup   func(conntrack.Tuple) (conntrack.Connection, error)
	log      *slog.Logger

	// What the queue's goroutine makes, and what it still reads after mu is free.
	buf    []byte
	packet conntrack.Packet
	attrs  []byte // what conntrack knows of the connection of packet
	seq    uint32
	sent   [256]sent // the last messages that left with a verdict

	expired []byte // what expire sends; buf is the queue's

	held sync.WaitGroup
	room chan struct{} // one token a held packet
	stop chan struct{} // closed when nothing is to be held any more
}

// sent remembers what a refusal of the kernel is about: an expectation, or the
// entry of a data connection.
type sent struct {
	seq          uint32
	x            conntrack.Expectation
	data, master conntrack.Tuple
	expected     bool // the data connection was announced
}

// Config sets an Engine up.
type Config struct {
	Tracker conntrack.Config
	// Kernel is the admission mode.
	Kernel conntrack.Admitter
	// Entry serves control connections that the kernel has no helper for, and
	// those that went into TLS. It is the same as Kernel in the mode "entry", and
	// nil where the rules for it are wanting.
	Entry *Entry
	// TLSPorts are the server's ports that a client may connect to while its
	// control connection cannot be read. It needs Entry.
	TLSPorts conntrack.PortRange
	// SkipMark is the bit of the conntrack mark that has the rules queue no payload
	// of a connection any more; 0 if there is none.
	SkipMark uint32
	// Accept releases a packet that is held.
	Accept Accept
	// Send takes what is to be withdrawn while the queue is open.
	Send Send
	// Lookup finds the control connection between two ends where the queue's
	// packets come without nfq.Packet.Conntrack. With nil, whatever comes counts as
	// what conntrack has.
	Lookup func(ends conntrack.Tuple) (conntrack.Connection, error)
	Log    *slog.Logger
}

// New makes the engine of a queue.
func New(cfg Config) *Engine {
	e := &Engine{
		kernel: cfg.Kernel, entry: cfg.Entry, ports: cfg.Tracker.Ports, tlsPorts: cfg.TLSPorts,
		skipMark: cfg.SkipMark, accept: cfg.Accept, send: cfg.Send, lookup: cfg.Lookup, log: cfg.Log, seq: firstSeq,
		room: make(chan struct{}, maxHeld), stop: make(chan struct{}),
	}
	cfg.Tracker.Observe = e.observe
	if cfg.Lookup != nil {
		cfg.Tracker.Lookup = e.connection
	}
	_, cfg.Tracker.Shared = cfg.Kernel.(*Entry) // its table has one element for all of them
	e.tracker = conntrack.New(cfg.Tracker)
	return e
}

// Packet implements nfq.Handler.
func (e *Engine) Packet(p *nfq.Packet) nfq.Verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.ports, p.Dst.Port()) && !slices.Contains(e.ports, p.Src.Port()) {
		return nfq.Verdict{Before: e.data(p)}
	}
	e.attrs = p.Conntrack
	e.packet = conntrack.Packet{
		Src: p.Src, Dst: p.Dst, Zone: ctnetlink.Zone(p.Conntrack), Seq: p.Seq, Ack: p.Ack,
		Flags: conntrack.Flags(p.Flags), Payload: p.Payload,
	}
	d := e.tracker.Packet(time.Now(), &e.packet)
	if d.Idle() {
		return nfq.Verdict{}
	}
	e.opaque(d)
	b := e.appendMark(e.buf[:0], d)
	for i := range d.Withdraw {
		x := &d.Withdraw[i]
		if e.tracker.Contended(x) {
			// The kernel finds what to delete by its tuple. By the time that the
			// verdict leaves, the other one's may stand there.
			e.delete(x)
			continue
		}
		// A refused delete is one that came too late: there is nothing to do.
		b = e.kernel.AppendDelete(b, nfq.SeqSilent, x)
	}
	e.buf = b
	if d.Contested && e.hold(p.ID, d.Expect) {
		return nfq.Verdict{Before: b, Hold: true}
	}
	for i := range d.Expect {
		x := &d.Expect[i]
		var err error
		if b, err = e.kernel.AppendExpect(b, e.seq, x); err != nil {
			e.lockedRefused(x, err)
			continue
		}
		e.remember(sent{x: *x})
		if d.Contested { // too many are held: it counts as taken unless the kernel says no
			e.tracker.Admitted(x)
		}
	}
	e.buf = b
	return nfq.Verdict{Before: b}
}

// remember notes what the message with the sequence number e.seq is about, and
// goes on to the next number.
func (e *Engine) remember(s sent) {
	s.seq = e.seq
	e.sent[e.seq%uint32(len(e.sent))] = s
	if e.seq++; e.seq == nfq.SeqPing {
		e.seq = firstSeq
	}
}

// appendMark marks the connection of the packet if it is to be skipped. When a
// connection begins it takes the mark off: conntrack may use the entry of an
// earlier one between the same ends again.
func (e *Engine) appendMark(b []byte, d *conntrack.Decision) []byte {
	if e.skipMark == 0 || !d.Skip && !d.Anew {
		return b
	}
	t := conntrack.Tuple{Src: e.packet.Src, Dst: e.packet.Dst} // either direction will do
	if c, ok := e.connection(t); ok {
		t = c.Original
	}
	if d.Skip {
		return ctnetlink.AppendMark(b, markSeq, e.packet.Zone, t, e.skipMark, e.skipMark)
	}
	return ctnetlink.AppendMark(b, nfq.SeqSilent, e.packet.Zone, t, 0, e.skipMark)
}

// connection is conntrack.Config's Lookup. What came with the packet is right
// behind any NAT; the kernel can be asked only for what NAT has not changed on
// both sides.
func (e *Engine) connection(ends conntrack.Tuple) (c conntrack.Connection, ok bool) {
	var err error
	switch {
	case e.attrs != nil:
		err = ctnetlink.ParseConnection(e.attrs, &c)
	case e.lookup != nil:
		c, err = e.lookup(ends)
	default:
		return c, false
	}
	return c, err == nil // without it, the kernel will say what is wrong
}

// data takes the first packet of what may be a data connection: the table had it
// queued before conntrack saw it. It returns the messages that make the entry, which
// are to leave ahead of the packet.
func (e *Engine) data(p *nfq.Packet) []byte {
	if e.entry == nil || p.Flags&(nfq.SYN|nfq.ACK|nfq.RST|nfq.FIN) != nfq.SYN {
		return nil
	}
	x, expected := e.tracker.Use(p.Src, p.Dst)
	master := x.Master
	if !expected {
		var ok bool
		if master, ok = e.tracker.OpaqueMaster(p.Src.Addr(), p.Dst.Addr()); !ok || !e.tlsPorts.Contains(p.Dst.Port()) {
			return nil
		}
	}
	data := conntrack.Tuple{Src: p.Src, Dst: p.Dst}
	b := e.buf[:0]
	if expected {
		// An entry that is there already is a leftover: client and server have
		// agreed on a new connection.
		b = ctnetlink.AppendDeleteConnection(b, nfq.SeqSilent, data)
	}
	b = ctnetlink.AppendEntry(b, e.seq, data, master)
	e.remember(sent{data: data, master: master, expected: expected})
	e.buf = b
	return b
}

// servesTLS reports whether data connections of sessions in TLS are admitted.
func (e *Engine) servesTLS() bool {
	return e.entry != nil && e.tlsPorts != (conntrack.PortRange{})
}

// opaque lets the data connections of sessions in TLS be queued.
func (e *Engine) opaque(d *conntrack.Decision) {
	if !e.servesTLS() {
		return
	}
	// One packet may begin the session of hosts and end it, or end one and begin the
	// next: what it came to counts.
	for _, hosts := range [...][]conntrack.Hosts{d.Readable, d.Opaque} {
		for _, h := range hosts {
			if e.tracker.IsOpaque(h) {
				e.addOpaque(h)
			} else if err := e.entry.Table.RemoveOpaque(h.Client, h.Server); err != nil {
				e.log.Warn("cannot end the admission of data connections of a session in TLS", "client", h.Client, "server", h.Server, "err", err)
			}
		}
	}
}

func (e *Engine) addOpaque(h conntrack.Hosts) {
	if err := e.entry.Table.AddOpaque(h.Client, h.Server, opaqueFor); err != nil {
		e.log.Warn("cannot admit data connections of a session in TLS", "client", h.Client, "server", h.Server, "err", err)
	}
}

// Refill puts the sessions in TLS into the table, where their time begins anew.
// Data connections that were expected are not in a table that was made again any
// more: clients ask again. Packets are handled meanwhile.
func (e *Engine) Refill() {
	if !e.servesTLS() {
		return
	}
	for _, h := range e.opaqueHosts() {
		e.renew(h)
	}
}

func (e *Engine) opaqueHosts() []conntrack.Hosts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(e.tracker.OpaqueHosts())
}

// renew begins the time of hosts anew, unless the last of their sessions in TLS has
// ended.
func (e *Engine) renew(h conntrack.Hosts) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tracker.IsOpaque(h) {
		e.addOpaque(h)
	}
}

// hold keeps a packet back until the kernel has taken its expectations, one of
// which another control connection may hold the place of. It reports false if
// too many are held already.
func (e *Engine) hold(id uint32, expect []conntrack.Expectation) bool {
	select {
	case e.room <- struct{}{}:
	default:
		return false
	}
	expect = slices.Clone(expect)
	e.held.Go(func() {
		defer func() { <-e.room }()
		for i := range expect {
			e.insist(&expect[i])
		}
		// A queue that closed has let it go already.
		if err := e.accept(id); err != nil && !errors.Is(err, os.ErrClosed) {
			e.log.Error("cannot release a held packet", "err", err)
		}
	})
	return true
}

// insist inserts an expectation as soon as nobody else holds its place, for as
// long as a packet may be held.
func (e *Engine) insist(x *conntrack.Expectation) {
	deadline := time.Now().Add(holdFor)
	for !e.try(x, time.Now().After(deadline)) {
		select {
		case <-time.After(retryEvery):
		case <-e.stop:
			deadline = time.Time{}
		}
	}
}

// try tries to insert an expectation that may clash, and reports whether that is
// settled, which it is after the last time. What the kernel has taken and what
// the tracker knows of it change together: a withdrawal in between would take the
// new expectation for the one before it, which was used.
func (e *Engine) try(x *conntrack.Expectation, last bool) (settled bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.kernel.Expect(x)
	switch {
	case err == nil:
		if !e.tracker.Admitted(x) {
			e.delete(x)
		}
	case reasonOf(err) == conntrack.Clash && !last:
		return false
	default:
		e.lockedRefused(x, err)
	}
	return true
}

// Refused implements nfq.Handler: the kernel did not take a message that left
// with a verdict.
func (e *Engine) Refused(seq uint32, err error) {
	if seq == markSeq {
		e.log.Warn("cannot mark a connection: its packets go on being queued", "err", err)
		return
	}
	s := e.sent[seq%uint32(len(e.sent))]
	if s.seq != seq {
		e.log.Warn("the kernel refused a message", "seq", seq, "err", err)
		return
	}
	if s.data != (conntrack.Tuple{}) {
		// In TLS it may be the first packet, sent again. Of one that was announced an
		// earlier entry was deleted: that of another connection is in the way.
		if s.expected || !errors.Is(err, unix.EEXIST) {
			e.log.Warn("cannot relate a data connection to its control connection",
				"src", s.data.Src, "dst", s.data.Dst, "client", s.master.Src, "server", s.master.Dst,
				"err", ctnetlink.Explain(ctnetlink.OpCreate, s.data, err))
		}
		return
	}
	if reasonOf(err) != conntrack.Clash {
		e.refused(&s.x, err)
		return
	}
	// Somebody else's expectation, which the tracker does not know of. The
	// packet is gone, but the data connection may still take a while to come.
	select {
	case e.room <- struct{}{}:
		e.held.Go(func() {
			defer func() { <-e.room }()
			e.insist(&s.x)
		})
	default:
		e.refused(&s.x, err)
	}
}

// refused takes note that the kernel did not take an expectation. One whose
// control connection has no helper is served through an entry.
func (e *Engine) refused(x *conntrack.Expectation, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lockedRefused(x, err)
}

func (e *Engine) lockedRefused(x *conntrack.Expectation, err error) {
	// The packets that an entry would be made for come in the default zone.
	if reasonOf(err) == conntrack.NoHelper && e.entry != nil && x.Zone == 0 {
		if err = e.entry.Expect(x); err == nil {
			return
		}
	}
	e.log.Warn("the kernel refused an expectation",
		"reason", reasonOf(err), "client", x.Master.Src, "server", x.Master.Dst,
		"via", x.Via, "err", e.kernel.Explain(x, err))
	e.tracker.Refused(time.Now(), x, reasonOf(err))
}

func (e *Engine) delete(x *conntrack.Expectation) {
	if err := e.kernel.Delete(x); err != nil && !errors.Is(err, unix.ENOENT) {
		e.log.Warn("cannot withdraw an expectation", "err", err)
	}
}

// reasonOf names the kernel's refusal of an expectation. What conntrack answers has
// another meaning where nftables does.
func reasonOf(err error) conntrack.Reason {
	if _, ok := errors.AsType[*firewall.Error](err); ok {
		return conntrack.Kernel
	}
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return conntrack.Clash
	case errors.Is(err, unix.EOPNOTSUPP):
		return conntrack.NoHelper
	case errors.Is(err, unix.ENOENT):
		return conntrack.NoMaster
	case errors.Is(err, unix.EMFILE):
		return conntrack.TableFull
	case errors.Is(err, errNAT):
		return conntrack.Translated
	default:
		return conntrack.Kernel
	}
}

// Run withdraws expectations that nobody uses, and has the sessions in TLS stay in
// the table, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			e.expire()
		case <-renew.C:
			e.Refill()
		}
	}
}

// expire withdraws what nobody has used in time, and what stood for sessions in TLS
// that are forgotten. It does not wait for the kernel's answers about the former:
// packets wait meanwhile, because what is withdrawn may be announced again as soon
// as they are handled.
func (e *Engine) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.tracker.Expire(time.Now())
	e.opaque(d)
	rest := d.Withdraw
	for len(rest) > 0 {
		b, n := e.expired[:0], 0
		for n < len(rest) && len(b) < maxDatagram {
			b = e.kernel.AppendDelete(b, nfq.SeqSilent, &rest[n])
			n++
		}
		e.expired = b
		if len(b) > 0 && e.send(b) != nil {
			// The tracker has forgotten them, and Close will not withdraw them.
			for i := range rest[:n] {
				e.delete(&rest[i])
			}
		}
		rest = rest[n:]
	}
}

// Close releases what is held and withdraws all expectations. No packet may
// come any more.
func (e *Engine) Close() {
	close(e.stop)
	e.held.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.tracker.Close(time.Now()).Withdraw {
		e.delete(&x)
	}
}

// SetPolicy changes the policy for what is announced from now on.
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
