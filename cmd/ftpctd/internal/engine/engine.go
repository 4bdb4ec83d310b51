// Package engine is the daemon's packet path: it gives the packets of a queue to
// the tracker, and the tracker's decisions to the kernel.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/event"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

const (
	// holdFor is how long a packet is held for an expectation that another
	// control connection has not used yet; retryEvery is how often it is tried.
	holdFor    = 200 * time.Millisecond
	retryEvery = 5 * time.Millisecond
	// maxWaiting bounds the expectations that wait for their place at a time, and
	// maxWaitingOfClient those of one client. The packet of the next one moves on, and
	// what the kernel then says is final.
	maxWaiting         = 64
	maxWaitingOfClient = 16
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

// Engine handles the packets of one queue. Packet, Flush and Refused are called by that
// queue, one at a time; the rest is safe for concurrent use.
type Engine struct {
	mu      sync.Mutex // guards tracker and waiting
	tracker *conntrack.Tracker
	waiting waiting

	kernel   conntrack.Admitter // nil in the mode "entry"
	entry    *Entry             // nil where no rules queue the first packets of data connections
	ports    []uint16
	tlsPorts conntrack.PortRange
	skipMark uint32
	labels   bool // the rules use them: what is skipped gets one
	accept   func(id uint32) error
	send     func(messages []byte) error
	lookup   func(conntrack.Tuple) (conntrack.Connection, error)
	log      *slog.Logger
	limiter  *event.Limiter // of what hosts can have logged

	// What the queue's goroutine makes, and what it still reads after mu is free.
	buf   []byte
	seq   uint32
	sent  [256]sent // the last messages that left with a verdict
	batch batch

	expired []byte // what expire sends; buf is the queue's

	tasks sync.WaitGroup
	stop  chan struct{} // closed when nothing is to be held any more
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
	// Tracker sets the tracker up. Its Reopen is set where the rules use labels of
	// connections.
	Tracker conntrack.Config
	// Kernel takes the expectations in the mode "expect". It is nil in the mode
	// "entry".
	Kernel conntrack.Admitter
	// Entry takes all of them in the mode "entry". In the mode "expect" it serves what
	// the kernel refuses for want of a helper or of room, clients that have had their
	// share of the kernel's table, and sessions in TLS; nil where the rules for it are
	// wanting.
	Entry *Entry
	// TLSPorts are the server's ports that a client may connect to while its
	// control connection cannot be read. It needs Entry.
	TLSPorts conntrack.PortRange
	// SkipMark is the bit of the conntrack mark that has the rules queue no payload
	// of a connection any more; 0 if there is none.
	SkipMark uint32
	// Accept releases a packet that is held. It is nfq.Queue's.
	Accept func(id uint32) error
	// Send sends messages that go with no packet. It is nfq.Queue's.
	Send func(messages []byte) error
	// Lookup finds the control connection between two ends where the queue's
	// packets come without packet.Packet.Conntrack. With nil, whatever comes counts as
	// what conntrack has.
	Lookup func(ends conntrack.Tuple) (conntrack.Connection, error)
	Log    *slog.Logger
}

// New makes the engine of a queue.
func New(cfg Config) *Engine {
	e := &Engine{
		kernel: cfg.Kernel, entry: cfg.Entry, ports: cfg.Tracker.Ports, tlsPorts: cfg.TLSPorts,
		skipMark: cfg.SkipMark, labels: cfg.Tracker.Reopen, accept: cfg.Accept, send: cfg.Send, lookup: cfg.Lookup, log: cfg.Log, seq: firstSeq,
		limiter: event.NewLimiter(),
		stop:    make(chan struct{}),
	}
	cfg.Tracker.Observe = e.observe
	if cfg.Lookup != nil {
		cfg.Tracker.Lookup = e.connection
	}
	cfg.Tracker.Shared = cfg.Kernel == nil // the table has one element for all of them
	e.tracker = conntrack.New(cfg.Tracker)
	return e
}

// Packet implements nfq.Handler.
func (e *Engine) Packet(p *packet.Packet) nfq.Verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.ports, p.Dst.Port()) && !slices.Contains(e.ports, p.Src.Port()) {
		return nfq.Verdict{Before: e.data(p)}
	}
	p.Zone = ctnetlink.Zone(p.Conntrack)
	d := e.tracker.Packet(time.Now(), p)
	if d.Idle() {
		return nfq.Verdict{}
	}
	e.opaque(d)
	b := e.appendSkip(e.buf[:0], p, d)
	for i := range d.Withdraw {
		b = e.appendWithdraw(b, &d.Withdraw[i])
	}
	e.buf = b
	held := d.Contested && e.hold(p.ID, d.Expect)
	for i := range d.Expect {
		x := &d.Expect[i]
		if e.viaEntry(x) {
			if err := e.expectEntry(x); err != nil {
				e.reject(x, err)
			}
			continue
		}
		if held {
			continue
		}
		b = e.kernel.AppendExpect(b, e.seq, x)
		e.remember(sent{x: *x})
		if d.Contested { // too many are held: it counts as taken unless the kernel says no
			e.tracker.Admitted(x)
		}
	}
	e.buf = b
	return nfq.Verdict{Before: b, Hold: held}
}

// viaEntry reports whether x is for an entry, and not for the kernel's table.
func (e *Engine) viaEntry(x *conntrack.Expectation) bool { return e.kernel == nil || x.Overflow }

// errShare refuses a client that fills the kernel's table.
var errShare = errors.New("the client has had its share of the kernel's table of expectations, and entries need firewall.manage = true")

// expectEntry adds x to what goes into the table with this batch.
func (e *Engine) expectEntry(x *conntrack.Expectation) error {
	if e.entry == nil {
		return errShare
	}
	c, err := e.entry.change(x)
	if err == nil {
		e.batch.add(c)
		e.batch.expected = append(e.batch.expected, *x)
	}
	return err
}

// appendWithdraw appends the message that takes x back, if it takes one.
func (e *Engine) appendWithdraw(b []byte, x *conntrack.Expectation) []byte {
	switch {
	case e.viaEntry(x):
		// A first packet that is queued nevertheless meets no expectation.
		e.batch.add(changeOf(x, 0))
	case e.tracker.Contended(x):
		// By the time that the verdict leaves, the other one's may stand there.
		e.withdrawLater(x)
	default:
		// A refused delete is one that came too late: there is nothing to do.
		b = e.kernel.AppendDelete(b, nfq.SeqSilent, x)
	}
	return b
}

// Flush implements nfq.Handler: what the packets at hand have announced or withdrawn
// goes into the table in one transaction.
func (e *Engine) Flush() {
	if len(e.batch.changes) == 0 {
		return
	}
	if err := e.entry.Table.Apply(e.batch.changes); err != nil {
		e.mu.Lock()
		for i := range e.batch.expected {
			e.reject(&e.batch.expected[i], err)
		}
		e.mu.Unlock()
		if len(e.batch.expected) < len(e.batch.changes) && e.mayWarn(warnTable, "", netip.Addr{}) {
			e.log.Warn("cannot change the table of data connections", "err", err)
		}
	}
	e.batch.reset()
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

// appendSkip labels and marks the connection of p if it is to be skipped. When a
// connection begins it takes both off: conntrack may use the entry of an earlier one
// between the same ends again.
func (e *Engine) appendSkip(b []byte, p *packet.Packet, d *conntrack.Decision) []byte {
	label := e.labels && (d.Skip || d.Reopened)
	mark := e.skipMark != 0 && (d.Skip || d.Anew)
	if !label && !mark {
		return b
	}
	t := conntrack.Tuple{Src: p.Src, Dst: p.Dst} // either direction will do
	if c, ok := e.connection(p, t); ok {
		t = c.Original
	}
	if label {
		// One that is older than the rules cannot have labels.
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

// connection is conntrack.Config's Lookup. What came with the packet is right
// behind any NAT; the kernel can be asked only for what NAT has not changed on
// both sides.
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
	return c, err == nil // without it, the kernel will say what is wrong
}

// data takes the first packet of what may be a data connection: the table had it
// queued before conntrack saw it. It returns the messages that make the entry, which
// are to leave ahead of the packet.
func (e *Engine) data(p *packet.Packet) []byte {
	if e.entry == nil || p.Flags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
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
			e.batch.add(e.hosts(h))
		}
	}
}

// hosts is the change that queues the data connections between h if there is a session
// in TLS, and no more if there is none.
func (e *Engine) hosts(h conntrack.Hosts) firewall.Change {
	c := firewall.Change{Src: h.Client, Dst: h.Server}
	if e.tracker.IsOpaque(h) {
		c.Timeout = opaqueFor
	}
	return c
}

// Refill puts the sessions in TLS into the table, and restarts their time.
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

// renew restarts the time of hosts, unless the last of their sessions in TLS has ended.
func (e *Engine) renew(h conntrack.Hosts) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tracker.IsOpaque(h) {
		e.applyHosts(h)
	}
}

// applyHosts makes the change of hosts at once.
func (e *Engine) applyHosts(h conntrack.Hosts) {
	c := e.hosts(h)
	err := e.entry.Table.Apply([]firewall.Change{c})
	if err == nil || !e.mayWarn(warnTLS, "", h.Client) {
		return
	}
	message := "cannot admit data connections of a session in TLS"
	if c.Timeout == 0 {
		message = "cannot end the admission of data connections of a session in TLS"
	}
	e.log.Warn(message, "client", h.Client, "server", h.Server, "err", err)
}

// Refused implements nfq.Handler: the kernel did not take a message that left
// with a verdict.
func (e *Engine) Refused(seq uint32, err error) {
	if seq == markSeq {
		if e.mayWarn(warnUnmarked, "", netip.Addr{}) {
			e.log.Warn("cannot mark a connection: its packets go on being queued", "err", err)
		}
		return
	}
	s := e.sent[seq%uint32(len(e.sent))]
	if s.seq != seq {
		if e.mayWarn(warnMessage, "", netip.Addr{}) {
			e.log.Warn("the kernel rejected a message", "seq", seq, "err", err)
		}
		return
	}
	if s.data != (conntrack.Tuple{}) {
		// In TLS it may be the first packet, sent again. Of one that was announced an
		// earlier entry was deleted: that of another connection is in the way.
		if s.expected || !errors.Is(err, unix.EEXIST) {
			e.logUnrelated(s.data, s.master, err)
		}
		return
	}
	e.mu.Lock()
	switch {
	case reasonOf(err) == conntrack.Clash && e.wait(&s.x, nil):
		// Somebody else's expectation, which the tracker does not know of. The packet
		// is gone, but the data connection may still take a while to come.
	case e.fallback(&s.x, err):
		if err := e.expectEntry(&s.x); err != nil {
			e.reject(&s.x, err)
		}
	default:
		e.reject(&s.x, err)
		if reasonOf(err) == conntrack.Clash { // what is in the way may be its own, of an earlier announcement
			e.withdrawLater(&s.x)
		}
	}
	e.mu.Unlock()
	e.Flush()
}

// fallback reports whether x, which the kernel refused, is to be served through an
// entry. The packets that an entry would be made for come in the default zone.
func (e *Engine) fallback(x *conntrack.Expectation, err error) bool {
	reason := reasonOf(err)
	return e.entry != nil && x.Zone == 0 && (reason == conntrack.NoHelper || reason == conntrack.TableFull)
}

// reject takes note, under mu, that x is not expected.
func (e *Engine) reject(x *conntrack.Expectation, err error) {
	e.logKernelRejected(x, reasonOf(err), err)
	e.tracker.Refused(time.Now(), x, reasonOf(err))
}

func (e *Engine) explain(x *conntrack.Expectation, err error) error {
	if e.kernel == nil {
		return err
	}
	return e.kernel.Explain(x, err)
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
	case errors.Is(err, errShare):
		return conntrack.ClientLimit
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
		case now := <-tick.C:
			e.expire()
			e.logSuppressed(now)
		case <-renew.C:
			e.Refill()
		}
	}
}

// expire withdraws what nobody has used in time, and what stood for sessions in TLS
// that are forgotten. It does not wait for the kernel's answers about the former:
// packets wait meanwhile, because what is withdrawn may be announced again as soon
// as they are handled. Elements of the table for entries expire.
func (e *Engine) expire() {
	e.mu.Lock()
	d := e.tracker.Expire(time.Now())
	if e.servesTLS() {
		for _, h := range d.Readable {
			e.applyHosts(h)
		}
	}
	var unsent []conntrack.Expectation
	b, from := e.expired[:0], 0
	for i := range d.Withdraw {
		if x := &d.Withdraw[i]; !e.viaEntry(x) {
			b = e.appendWithdraw(b, x)
		}
		if len(b) >= maxDatagram || i == len(d.Withdraw)-1 && len(b) > 0 {
			if e.send(b) != nil {
				unsent = append(unsent, d.Withdraw[from:i+1]...)
			}
			b, from = b[:0], i+1
		}
	}
	e.expired = b
	e.mu.Unlock()
	// The tracker has forgotten them, and Close will not withdraw them.
	for i := range unsent {
		e.withdraw(&unsent[i])
	}
}

// Close releases what is held and withdraws all expectations. No packet may
// come any more.
func (e *Engine) Close() {
	close(e.stop)
	e.tasks.Wait()
	e.mu.Lock()
	withdraw := slices.Clone(e.tracker.Close(time.Now()).Withdraw)
	e.mu.Unlock()
	for i := range withdraw {
		e.withdraw(&withdraw[i])
	}
	e.logRest(time.Now())
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
