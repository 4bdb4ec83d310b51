package nfq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/nfq/packet"
)

// Handler is what a [Queue] calls, from one goroutine, one call after the other.
type Handler interface {
	// Packet is called with each packet that was decoded, and returns its verdict.
	// p and what it borrows are valid until Packet returns.
	Packet(p *packet.Packet) Verdict
	// Flush is called after Packet was called with every packet of a batch, before
	// their verdicts are sent.
	Flush()
	// Rejected is called with the error, a syscall.Errno, with which the kernel
	// rejected the message of Verdict.Before that has the sequence number seq.
	Rejected(seq uint32, err error)
}

// Verdict says what to do with a packet. The zero Verdict accepts it.
type Verdict struct {
	// Before holds complete netlink messages of any subsystem of nfnetlink. They
	// are sent ahead of the verdict in the same datagram, so that the kernel has
	// carried them out before the packet moves on. They should not ask for ACKs;
	// Handler.Rejected is called with their errors. They are borrowed until the next
	// call of the handler. Their sequence numbers are the handler's, except
	// [SeqVerdict], [SeqPing] and [SeqRelease]; errors of those with [SeqSilent]
	// are ignored.
	Before []byte
	// Hold keeps the packet in the kernel until Queue.Accept is called with its
	// ID. Before is sent with the batch, which an earlier Accept overtakes.
	Hold bool
}

// Config says which queue to open and how.
type Config struct {
	// Num is the number of the queue.
	Num uint16
	// Length is how many packets may wait in the kernel, 0 for its default
	// (1024). More are accepted without inspection.
	Length uint32
	// CopyRange is how many bytes of a packet are copied, 0 for all of it. A
	// truncated packet is accepted without inspection.
	CopyRange uint32
	// ReadBuffer is the size of the socket's receive buffer in bytes, 0 for the
	// system's default. Packets that do not fit are accepted without inspection and
	// counted as an overrun.
	ReadBuffer int
	// Conntrack asks for Packet.Conntrack. Not every kernel has it: see
	// [Queue.Conntrack].
	Conntrack bool
	// Driver reads the queue: DriverNetlink, which is the default, or
	// DriverGoNFQueue.
	Driver string
	// BusyPoll is how long DriverNetlink polls for the next packet before it sleeps;
	// 0 turns polling off. It polls only while packets arrive that close together,
	// and never on a single CPU. Between polls it yields the CPU.
	BusyPoll time.Duration
}

// The drivers.
const (
	// DriverNetlink is this package's own: several packets a system call, and no
	// allocations.
	DriverNetlink = "netlink"
	// DriverGoNFQueue is github.com/florianl/go-nfqueue.
	DriverGoNFQueue = "go-nfqueue"
)

// A driver is a bound socket and the loop that reads it. The loop calls waitRunning
// first; then, for each batch, beginBatch, handle for each packet, and flush;
// rejected for errors of messages; and recoverable and fail for errors of the socket.
type driver interface {
	// send writes one datagram of messages to the socket. It is called by one
	// goroutine at a time, and not after close.
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
	SendErrors uint64 // datagrams that could not be sent, and verdicts that the kernel rejected

	// SendError is the last of SendErrors, or nil.
	SendError error
}

// Queue is an open queue. Its methods may be called from any goroutine, except where
// they say otherwise.
type Queue struct {
	num     uint16
	handler Handler // set before running is closed

	driver    driver
	conntrack bool // set while it is opened

	// The receive loop's own.
	decoder        packet.Decoder
	packet         packet.Packet
	batch          []byte // the messages that flush sends
	handlerSpawned bool   // the handler may have started a goroutine

	running   chan struct{} // closed by Run: the handler may be called
	closed    chan struct{} // closed by Close, under sendMu
	failed    chan error    // what ended the receive loop
	closeOnce sync.Once
	closeErr  error

	sendMu sync.Mutex // held while the driver sends
	out    []byte     // Accept's message

	ping pinger

	lastID atomic.Uint32
	busy   atomic.Bool // the receive loop is handling a batch

	packets, undecoded, held, overruns, gone, sendErrors atomic.Uint64
	sendError                                            atomic.Pointer[error] // the last one
}

// Open binds the queue in the network namespace of the calling thread. Packets
// wait in the kernel until [Queue.Run] is called.
//
// Rules that queue packets are best added after Open, and removed before Run ends.
// With a rule already in place, a packet that arrives in the microseconds between
// the steps of binding is accepted without inspection, or dropped by the kernel and
// retransmitted.
//
// An error is an *[Error]: EBUSY, with the Owner, if the queue is already bound;
// os.ErrPermission without CAP_NET_ADMIN.
func Open(cfg Config) (*Queue, error) {
	open := openSocket
	switch cfg.Driver {
	case DriverNetlink, "":
	case DriverGoNFQueue:
		open = openGoNFQueue
	default:
		return nil, newError("open", cfg.Num, fmt.Errorf("unknown driver %q (want %s or %s)", cfg.Driver, DriverNetlink, DriverGoNFQueue))
	}
	q := newQueue(cfg)
	var err error
	if q.driver, err = open(cfg, q); err != nil {
		return nil, err
	}
	// A packet that was queued while the filter kept packets off the socket would
	// wait for ever. Those that have arrived since are accepted as well, and the
	// handler still sees them.
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
		q.beginBatch()
		loop.datagram(datagram)
		q.flush()
	}
}

// sender is a driver without a socket.
type sender func(datagram []byte) error

func (s sender) send(b []byte) error { return s(b) }
func (sender) close() error          { return nil }

func newQueue(cfg Config) *Queue {
	return &Queue{
		num:     cfg.Num,
		running: make(chan struct{}),
		closed:  make(chan struct{}),
		failed:  make(chan error, 1),
	}
}

// setFlags sets the flags of the queue with set, which fails with EOPNOTSUPP if the
// kernel does not know one of them. Conntrack is optional.
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

// Run calls h with the packets until ctx is cancelled, and then returns nil, or until
// receiving fails. Either way the queue is closed when it returns. It may be called
// once.
//
// After the cancellation it goes on until no packet has arrived for 5 ms, or for
// 100 ms at most, and then accepts all that still wait, held packets included.
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

// drain waits until the receive loop has been idle for a while.
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

// Close accepts every packet that waits in the kernel, unbinds the queue, and makes
// Run return. A handler must not call it.
func (q *Queue) Close() error {
	q.closeOnce.Do(func() {
		// The kernel drops the packets of a queue whose socket is closed. Accepting
		// and unbinding in one datagram leaves next to no time for another packet.
		_ = q.acceptAll(appendUnbind(nil, q.num))
		q.sendMu.Lock()
		close(q.closed)
		q.sendMu.Unlock()
		q.closeErr = q.driver.close()
	})
	return q.closeErr
}

// Accept accepts the packet id, which the handler held. It may be called while the
// handler runs. If the packet has already left the queue, that is counted, and no
// error. Closing the queue accepts every packet: after that it fails with
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

// Send sends messages like those of Verdict.Before that belong to no packet, in one
// datagram. It fails with os.ErrClosed after the queue was closed.
func (q *Queue) Send(messages []byte) error {
	if err := q.send(messages); err != nil {
		return newError("send", q.num, err)
	}
	return nil
}

// Conntrack reports whether packets come with Packet.Conntrack: it was asked for, and
// the kernel has it (CONFIG_NETFILTER_NETLINK_GLUE_CT).
func (q *Queue) Conntrack() bool { return q.conntrack }

// Stats returns the counters.
func (q *Queue) Stats() Stats {
	s := Stats{
		Packets:    q.packets.Load(),
		Undecoded:  q.undecoded.Load(),
		Held:       q.held.Load(),
		Overruns:   q.overruns.Load(),
		Gone:       q.gone.Load(),
		SendErrors: q.sendErrors.Load(),
	}
	if err := q.sendError.Load(); err != nil {
		s.SendError = *err
	}
	return s
}

// waitRunning is called by the receive loop before its first packet. It returns false
// if the queue was closed before Run was called.
func (q *Queue) waitRunning() bool {
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

// beginBatch is called by the receive loop when it has received packets.
func (q *Queue) beginBatch() { q.busy.Store(true) }

// handle is called by the receive loop for a packet: its bytes, and the attributes of
// its connection, both of which are borrowed.
func (q *Queue) handle(id uint32, b, conntrack []byte) {
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
		q.handlerSpawned = true
		return
	}
	q.batch = appendVerdict(q.batch, q.num, id)
}

// flush is called by the receive loop after the last packet of a batch. Their messages
// and verdicts leave in one datagram.
func (q *Queue) flush() {
	q.handler.Flush()
	if len(q.batch) > 0 {
		_ = q.send(q.batch) // counted
		q.batch = q.batch[:0]
	}
	q.busy.Store(false)
}

// recoverable is called by the receive loop for an error of its socket, and reports
// whether the loop may go on: after ENOBUFS, which the kernel reports once before it
// goes on to deliver packets.
func (q *Queue) recoverable(err error) bool {
	if !errors.Is(err, unix.ENOBUFS) {
		return false
	}
	q.overruns.Add(1)
	return true
}

// fail is called by the receive loop for an error that ends it.
func (q *Queue) fail(err error) {
	if !q.isClosed() {
		_ = q.acceptAll(nil)
		q.failed <- err
	}
}

// rejected is called by the receive loop for an error with which the kernel answered a
// message.
func (q *Queue) rejected(seq uint32, errno unix.Errno) {
	switch seq {
	case SeqRelease:
		// Nothing waited.
	case SeqSilent:
		// Only received without the filter noSilent.
	case SeqPing:
		q.ping.answer(errno)
	case SeqVerdict:
		if errno == unix.ENOENT {
			q.gone.Add(1)
			return
		}
		q.countSendError(newError("verdict", q.num, errno))
	default:
		q.handlerSpawned = true
		q.handler.Rejected(seq, errno)
	}
}

// send writes one datagram. The kernel accepts verdicts only from the socket that is
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
		q.countSendError(newError("send", q.num, err))
	}
	return err
}

func (q *Queue) countSendError(err error) {
	q.sendErrors.Add(1)
	q.sendError.Store(&err)
}

// acceptAll accepts every packet that waits in the kernel, and sends the messages
// after in the same datagram.
func (q *Queue) acceptAll(after []byte) error {
	// IDs wrap around: those up to half the range behind count as before this one.
	b := appendVerdictBatch(nil, q.num, q.lastID.Load()+1<<30)
	return q.send(append(b, after...))
}
