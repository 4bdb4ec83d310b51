// Package nfq reads one netfilter queue: it receives the packets that a rule
// sends there, decodes their IP and TCP headers, hands them to a [Handler], and
// lets every one of them pass.
//
// Nothing is ever dropped here. The verdict is always NF_ACCEPT, and what goes
// wrong (a queue that is full, a receive buffer that overflows, a packet that
// makes no sense) lets packets pass unread.
package nfq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/nfq/packet"
)

// Handler is what a [Queue] calls, from one goroutine, one call after the other.
type Handler interface {
	// Packet is given each packet that could be decoded. The packet waits in the
	// kernel meanwhile. p and what it borrows are valid until Packet returns.
	Packet(p *packet.Packet) Verdict
	// Flush is called when the packets at hand have been given to Packet, before
	// their verdicts leave.
	Flush()
	// Refused is given the error with which the kernel answered the message
	// numbered seq that was sent as Before: a syscall.Errno.
	Refused(seq uint32, err error)
}

// Verdict is what becomes of a packet. The zero Verdict accepts it.
type Verdict struct {
	// Before holds complete netlink messages of any subsystem of nfnetlink. They
	// go out ahead of the verdict in the same sendmsg: the kernel has carried
	// them out before the packet moves on. They should not ask for ACKs; their
	// errors come to Handler.Refused. They are borrowed until the next call of
	// the handler, and their sequence numbers are the handler's, but for
	// [SeqVerdict], [SeqPing] and [SeqRelease]; those with [SeqSilent] are not
	// answered for.
	Before []byte
	// Hold keeps the packet in the kernel until Queue.Accept is called with its
	// ID. Before is sent at once.
	Hold bool
}

// Config says which queue to open and how.
type Config struct {
	// Num is the number of the queue.
	Num uint16
	// Length is how many packets may wait in the kernel, 0 for its default
	// (1024). More pass unread.
	Length uint32
	// CopyRange is how many bytes of a packet are copied, 0 for all of it. A
	// packet that is cut passes unread.
	CopyRange uint32
	// ReadBuffer is the size of the socket's receive buffer in bytes, 0 for the
	// default (net.core.rmem_default). Packets that do not fit pass unread and
	// are counted as an overrun.
	ReadBuffer int
	// Conntrack asks for Packet.Conntrack. Kernels without
	// CONFIG_NETFILTER_NETLINK_GLUE_CT do not have it: see [Queue.Conntrack].
	Conntrack bool
	// Driver is what reads the queue: DriverNetlink, also if empty, or
	// DriverGoNFQueue.
	Driver string
	// BusyPoll is how long DriverNetlink looks for the next packet before it
	// sleeps, 0 for not at all. It does so only while packets come that close after
	// one another, and where there is more than one processor. Between looks it
	// leaves the processor to other threads.
	BusyPoll time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// The drivers.
const (
	// DriverNetlink is this package's own: several packets a system call, and no
	// allocations.
	DriverNetlink = "netlink"
	// DriverGoNFQueue is github.com/florianl/go-nfqueue.
	DriverGoNFQueue = "go-nfqueue"
)

// A driver is a bound socket and the loop that reads it. The loop waits for
// Queue.wait and then calls begin, packetIn for one or more packets, and end;
// refused for answers of the kernel; and survives and fail for its own errors.
type driver interface {
	// send writes one datagram of messages to the socket. Calls follow each
	// other, and none comes after close.
	send(b []byte) error
	// close ends the loop, waits for its end, and closes the socket. The queue
	// is closed when it is called.
	close() error
}

// Stats counts since Open.
type Stats struct {
	Packets    uint64 // received
	Undecoded  uint64 // received but not decoded, and accepted at once
	Held       uint64 // held by the handler
	Overruns   uint64 // overflows of the receive buffer; each let one or more packets pass unread
	Gone       uint64 // verdicts for a packet that had left the queue
	SendErrors uint64 // verdicts and other messages that could not be sent, and verdicts that were refused
}

// Queue is an open queue. Its methods may be called from any goroutine, unless
// they say otherwise.
type Queue struct {
	num     uint16
	log     *slog.Logger
	handler Handler // set before running is closed

	driver    driver
	conntrack bool // set while it is opened

	// What follows is of the receive loop's goroutine.
	decoder   packet.Decoder
	packet    packet.Packet
	batch     []byte    // what leaves at its end
	complaint time.Time // when an overrun was last logged
	gaveWork  bool      // the handler may have begun a goroutine

	running   chan struct{} // closed by Run: the handler may be called
	closed    chan struct{} // closed by Close, under sendMu
	failed    chan error    // what ended the receive loop
	closeOnce sync.Once
	closeErr  error

	sendMu sync.Mutex // held while the driver sends
	out    []byte     // of Accept

	ping pinger

	lastID atomic.Uint32
	busy   atomic.Bool // the receive loop has packets in hand

	packets, undecoded, held, overruns, gone, sendErrors atomic.Uint64
}

// Open binds the queue in the network namespace of the calling thread. Packets
// wait in the kernel until [Queue.Run] is called.
//
// Rules that send packets to the queue are best made after Open, and taken away
// before the end of Run. With a rule in place already, a packet that comes in
// the microseconds between the steps of binding is dropped by the kernel, for
// TCP to send again, or passes unread.
//
// An error is an *[Error]: of EBUSY if the queue is bound already, it says by
// whom; os.ErrPermission without CAP_NET_ADMIN.
func Open(cfg Config) (*Queue, error) {
	open := openSocket
	switch cfg.Driver {
	case DriverNetlink, "":
	case DriverGoNFQueue:
		open = openGoNFQueue
	default:
		return nil, newError("open", cfg.Num, fmt.Errorf("no driver %q: there are %s and %s", cfg.Driver, DriverNetlink, DriverGoNFQueue))
	}
	q := newQueue(cfg)
	var err error
	if q.driver, err = open(cfg, q); err != nil {
		return nil, err
	}
	// What was queued while the socket refused packets would wait for ever.
	// Packets that have come since are let go as well; the handler still hears
	// of them.
	if err := q.acceptAll(nil); err != nil {
		return nil, errors.Join(newError("bind", cfg.Num, err), q.Close())
	}
	return q, nil
}

// Detached is the receive loop of [DriverNetlink] without a kernel: it passes each
// datagram that receive is called with to h, and the datagrams that answer it to
// send. It is for package nfqtest alone, which cannot reach the loop otherwise and
// should not be part of this package, because programs would ship it.
func Detached(num uint16, h Handler, send func(datagram []byte) error) (receive func(datagram []byte)) {
	q := newQueue(Config{Num: num})
	q.handler, q.driver = h, sender(send)
	loop := &socket{q: q}
	return func(datagram []byte) {
		q.begin()
		loop.datagram(datagram)
		q.end()
	}
}

// sender is a driver without a socket.
type sender func(datagram []byte) error

func (s sender) send(b []byte) error { return s(b) }
func (sender) close() error          { return nil }

func newQueue(cfg Config) *Queue {
	q := &Queue{
		num:     cfg.Num,
		log:     cfg.Logger,
		running: make(chan struct{}),
		closed:  make(chan struct{}),
		failed:  make(chan error, 1),
	}
	if q.log == nil {
		q.log = slog.New(slog.DiscardHandler)
	}
	return q
}

// setFlags sets the flags of the queue through set, which fails with EOPNOTSUPP
// if the kernel does not know one of them. It can do without Conntrack.
func (q *Queue) setFlags(cfg Config, set func(flags uint32) error) error {
	if cfg.Conntrack {
		err := set(flagFailOpen | flagConntrack)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			q.conntrack = err == nil
			return err
		}
	}
	return set(flagFailOpen)
}

// Run gives the packets to h until ctx is cancelled, and returns nil then, or until
// receiving fails. Either way the queue is closed when it returns. It may be
// called once.
//
// After the cancellation it goes on until no packet has come for 5 ms, or for
// 100 ms at most, and then accepts what is left, held packets included.
func (q *Queue) Run(ctx context.Context, h Handler) error {
	q.handler = h
	close(q.running)
	select {
	case <-ctx.Done():
		q.drain()
		_ = q.Close()
		return nil
	case <-q.closed:
		return nil
	case err := <-q.failed:
		_ = q.Close()
		return newError("receive", q.num, err)
	}
}

// drain waits until the receive loop has had nothing to do for a while.
func (q *Queue) drain() {
	const quiet, patience = 5 * time.Millisecond, 100 * time.Millisecond
	before := q.packets.Load()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		time.Sleep(quiet)
		now := q.packets.Load()
		if now == before && !q.busy.Load() {
			return
		}
		before = now
	}
}

// Close accepts every packet that waits in the kernel, gives the queue up, and
// makes Run return. A handler must not call it.
func (q *Queue) Close() error {
	q.closeOnce.Do(func() {
		// The kernel drops what a queue still holds when its socket is closed. In
		// one datagram with the unbinding, next to nothing can come between.
		_ = q.acceptAll(appendUnbind(nil, q.num))
		q.sendMu.Lock()
		close(q.closed)
		q.sendMu.Unlock()
		q.closeErr = q.driver.close()
	})
	return q.closeErr
}

// Accept lets the packet id go, which the handler held. It may be called while the
// handler still runs. If the packet has left the queue meanwhile, that is counted,
// and no error. Of a closed queue every packet has been accepted: it fails with
// os.ErrClosed.
func (q *Queue) Accept(id uint32) error {
	q.sendMu.Lock()
	defer q.sendMu.Unlock()
	q.out = appendVerdict(q.out[:0], q.num, id)
	if err := q.lockedSend(q.out); err != nil {
		return newError("verdict", q.num, err)
	}
	return nil
}

// Send sends messages like those of Verdict.Before that go with no packet, in one
// datagram. It fails with os.ErrClosed once the queue is closed.
func (q *Queue) Send(messages []byte) error {
	if err := q.send(messages); err != nil {
		return newError("send", q.num, err)
	}
	return nil
}

// Conntrack reports whether the kernel tells what conntrack knows of a packet: it
// was asked to, and can.
func (q *Queue) Conntrack() bool { return q.conntrack }

// Stats returns the counters.
func (q *Queue) Stats() Stats {
	return Stats{
		Packets:    q.packets.Load(),
		Undecoded:  q.undecoded.Load(),
		Held:       q.held.Load(),
		Overruns:   q.overruns.Load(),
		Gone:       q.gone.Load(),
		SendErrors: q.sendErrors.Load(),
	}
}

// wait is called by the receive loop before its first packet. It reports false
// if the queue was closed before Run was called.
func (q *Queue) wait() bool {
	select {
	case <-q.running:
		return true
	case <-q.closed:
		return false
	}
}

// isClosed reports whether Close was called.
func (q *Queue) isClosed() bool {
	select {
	case <-q.closed:
		return true
	default:
		return false
	}
}

// begin is called by the receive loop when it has packets.
func (q *Queue) begin() { q.busy.Store(true) }

// packetIn is called by the receive loop for a packet. Its bytes and what conntrack
// knows of it are borrowed.
func (q *Queue) packetIn(id uint32, b, conntrack []byte) {
	q.packets.Add(1)
	q.lastID.Store(id)
	var v Verdict
	if err := q.decoder.Decode(b, &q.packet); err != nil {
		q.undecoded.Add(1)
	} else {
		q.packet.ID, q.packet.Conntrack = id, conntrack
		v = q.handler.Packet(&q.packet)
	}
	q.batch = append(q.batch, v.Before...)
	if v.Hold {
		q.held.Add(1)
		q.gaveWork = true
		return
	}
	q.batch = appendVerdict(q.batch, q.num, id)
}

// end is called by the receive loop when it has handed in all packets it had.
// What is to be said about them leaves in one datagram.
func (q *Queue) end() {
	q.handler.Flush()
	if len(q.batch) > 0 {
		if err := q.send(q.batch); err != nil && !errors.Is(err, os.ErrClosed) {
			q.log.Error("cannot send a verdict", "queue", q.num, "err", err)
		}
		q.batch = q.batch[:0]
	}
	q.busy.Store(false)
}

// survives is called by the receive loop for an error of its socket and reports
// whether it may go on: after ENOBUFS, which the kernel says once and then goes
// on to deliver.
func (q *Queue) survives(err error) bool {
	if !errors.Is(err, unix.ENOBUFS) {
		return false
	}
	n := q.overruns.Add(1)
	if now := time.Now(); now.Sub(q.complaint) >= time.Second {
		q.complaint = now
		q.log.Warn("the receive buffer overflowed and packets passed unread: raise net.core.rmem_max or lower the load",
			"queue", q.num, "overruns", n)
	}
	return true
}

// fail is called by the receive loop for an error that ends it.
func (q *Queue) fail(err error) {
	if !q.isClosed() {
		_ = q.acceptAll(nil)
		q.failed <- err
	}
}

// refused is called by the receive loop for an error with which the kernel
// answered a message.
func (q *Queue) refused(seq uint32, errno unix.Errno) {
	switch seq {
	case SeqRelease:
		// Nothing waited.
	case SeqSilent:
		// Only a socket without noSilent hears of it.
	case SeqPing:
		q.ping.answer(errno)
	case SeqVerdict:
		if errno == unix.ENOENT {
			q.gone.Add(1)
			return
		}
		q.sendErrors.Add(1)
		q.log.Error("the kernel refused a verdict", "queue", q.num, "err", errno)
	default:
		q.gaveWork = true
		q.handler.Refused(seq, errno)
	}
}

// send writes one datagram. Verdicts are taken only from the socket that is
// bound.
func (q *Queue) send(b []byte) error {
	q.sendMu.Lock()
	defer q.sendMu.Unlock()
	return q.lockedSend(b)
}

func (q *Queue) lockedSend(b []byte) error {
	if q.isClosed() {
		return os.ErrClosed
	}
	err := q.driver.send(b)
	if err != nil {
		q.sendErrors.Add(1)
	}
	return err
}

// acceptAll accepts every packet that waits in the kernel, and sends the
// messages in after with that.
func (q *Queue) acceptAll(after []byte) error {
	// Within half the circle of IDs everything counts as before this one.
	b := appendVerdictBatch(nil, q.num, q.lastID.Load()+1<<30)
	return q.send(append(b, after...))
}
