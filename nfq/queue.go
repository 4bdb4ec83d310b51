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
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Handler is what a [Queue] calls, from one goroutine, one call after the other.
type Handler interface {
	// Packet is given each packet that could be decoded. The packet waits in the
	// kernel meanwhile. p and what it borrows are valid until Packet returns.
	Packet(p *Packet) Verdict
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
	// [SeqVerdict] and [SeqRelease].
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
	// Logger may be nil.
	Logger *slog.Logger
}

// Stats counts since Open.
type Stats struct {
	Packets    uint64 // received
	Undecoded  uint64 // received but not decoded, and accepted at once
	Held       uint64 // held by the handler
	Overruns   uint64 // overflows of the receive buffer; each let one or more packets pass unread
	Gone       uint64 // verdicts for a packet that had left the queue
	SendErrors uint64 // verdicts that could not be sent or were refused
}

// Queue is an open queue. Its methods may be called from any goroutine, unless
// they say otherwise.
type Queue struct {
	num     uint16
	log     *slog.Logger
	handler Handler

	nf  *nfqueue.Nfqueue
	raw syscall.RawConn

	// What follows is of the receive loop's goroutine.
	decoder   Decoder
	packet    Packet
	complaint time.Time // when an overrun was last logged

	running   chan struct{} // closed by Run: the handler may be called
	closed    chan struct{} // closed by Close
	failed    chan error    // what ended the receive loop
	closeOnce sync.Once
	closeErr  error

	sendMu  sync.Mutex
	out     []byte
	sendErr error
	write   func(fd uintptr) bool // writes out and sets sendErr; made once, so as not to allocate

	lastID atomic.Uint32
	busy   atomic.Bool // the receive loop has a packet in hand

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
func Open(cfg Config, h Handler) (*Queue, error) {
	q := newQueue(cfg, h)
	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      cfg.Num,
		MaxQueueLen:  cfg.Length,
		MaxPacketLen: cfg.CopyRange,
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        nfqueue.NfQaCfgFlagFailOpen,
		AfFamily:     unix.AF_UNSPEC, // both families come
	})
	if err != nil {
		return nil, newError("open", cfg.Num, err)
	}
	q.nf = nf
	if err := q.bind(cfg); err != nil {
		_ = q.release()
		return nil, newError("bind", cfg.Num, err)
	}
	return q, nil
}

func newQueue(cfg Config, h Handler) *Queue {
	q := &Queue{
		num:     cfg.Num,
		log:     cfg.Logger,
		handler: h,
		running: make(chan struct{}),
		closed:  make(chan struct{}),
		failed:  make(chan error, 1),
	}
	if q.log == nil {
		q.log = slog.New(slog.DiscardHandler)
	}
	q.write = func(fd uintptr) bool {
		for {
			_, err := unix.Write(int(fd), q.out)
			if err == unix.EINTR {
				continue
			}
			q.sendErr = err
			return err != unix.EAGAIN // false waits until the socket is writable
		}
	}
	return q
}

// bind configures the queue and starts the receive loop.
//
// The library waits for an ACK after each step of the configuration and takes
// the next datagram for it. Where rules point to the queue already, that may be
// a packet. So packets are kept off the socket until the queue is configured,
// and what the kernel has queued by then, unseen, is let go.
func (q *Queue) bind(cfg Config) error {
	if cfg.ReadBuffer > 0 {
		if err := q.nf.Con.SetReadBuffer(cfg.ReadBuffer); err != nil {
			return err
		}
	}
	raw, err := q.nf.Con.SyscallConn()
	if err != nil {
		return err
	}
	q.raw = raw
	if err := q.refusePackets(); err != nil {
		return err
	}
	// The receive loop ends with the socket, not with a context.
	if err := q.nf.RegisterWithErrorFunc(context.Background(), q.receive, q.receiveError); err != nil {
		return err
	}
	return q.admitPackets()
}

// refusePackets attaches a filter to the socket that lets everything in but
// packets. The kernel takes a message that is filtered away for delivered.
func (q *Queue) refusePackets() error {
	// BPF loads in network byte order what netlink writes in the host's.
	typ := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, msgPacket))
	const typeOffset = 4 // of nlmsg_type in struct nlmsghdr
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(typ), Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	var err error
	controlErr := q.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(controlErr, err)
}

// admitPackets removes the filter, and accepts what was queued under it and what
// came since. Of the latter the handler still hears.
func (q *Queue) admitPackets() error {
	return errors.Join(q.nf.Con.RemoveBPF(), q.acceptAll(nil))
}

// Run calls the handler until ctx is cancelled, and returns nil then, or until
// receiving fails. Either way the queue is closed when it returns. It may be
// called once.
//
// After the cancellation it goes on until no packet has come for 5 ms, or for
// 100 ms at most, and then accepts what is left, held packets included.
func (q *Queue) Run(ctx context.Context) error {
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
		q.closeErr = q.release()
	})
	return q.closeErr
}

// release closes the socket and waits for the end of the receive loop.
func (q *Queue) release() error {
	close(q.closed)
	return q.nf.Close()
}

// Accept sends the messages in before, which may be empty, and the verdict for
// the packet id, which the handler held. It may be called while the handler
// still runs. If the packet has left the queue meanwhile, that is counted, and
// no error. Of a closed queue every packet has been accepted: it fails with
// os.ErrClosed.
func (q *Queue) Accept(id uint32, before []byte) error {
	if err := q.send(before, id, true); err != nil {
		return newError("verdict", q.num, err)
	}
	return nil
}

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

// What a callback of go-nfqueue returns.
const (
	goOn = 0
	stop = 1
)

// receive is go-nfqueue's callback for a message.
func (q *Queue) receive(a nfqueue.Attribute) int {
	select {
	case <-q.running:
	case <-q.closed:
		return stop
	}
	if a.PacketID == nil {
		return goOn // an ACK
	}
	q.busy.Store(true)
	defer q.busy.Store(false)
	q.packets.Add(1)
	q.lastID.Store(*a.PacketID)

	var b []byte
	if a.Payload != nil {
		b = *a.Payload
	}
	var v Verdict
	if err := q.decoder.Decode(b, &q.packet); err != nil {
		q.undecoded.Add(1)
	} else {
		q.packet.ID = *a.PacketID
		v = q.handler.Packet(&q.packet)
	}
	if v.Hold {
		q.held.Add(1)
		if len(v.Before) == 0 {
			return goOn
		}
	}
	if err := q.send(v.Before, *a.PacketID, !v.Hold); err != nil && !errors.Is(err, os.ErrClosed) {
		q.log.Error("cannot send a verdict", "queue", q.num, "err", err)
	}
	return goOn
}

// receiveError is go-nfqueue's callback for an error.
func (q *Queue) receiveError(err error) int {
	if _, ok := errors.AsType[*os.SyscallError](err); !ok {
		// Not from the socket, but the kernel's answer to a message.
		op, ok := errors.AsType[*netlink.OpError](err)
		errno, isErrno := errors.AsType[unix.Errno](err)
		if ok && isErrno {
			q.refused(op.Sequence, errno)
			return goOn
		}
	}
	if errors.Is(err, unix.ENOBUFS) {
		// The kernel says so once and then goes on to deliver.
		n := q.overruns.Add(1)
		if now := time.Now(); now.Sub(q.complaint) >= time.Second {
			q.complaint = now
			q.log.Warn("the receive buffer overflowed and packets passed unread: raise net.core.rmem_max or lower the load",
				"queue", q.num, "overruns", n)
		}
		return goOn
	}
	// The library unbinds at once when this returns.
	select {
	case <-q.closed:
	default:
		_ = q.acceptAll(nil)
		q.failed <- err
	}
	return stop
}

func (q *Queue) refused(seq uint32, errno unix.Errno) {
	switch seq {
	case SeqRelease:
		// Nothing waited.
	case SeqVerdict:
		if errno == unix.ENOENT {
			q.gone.Add(1)
			return
		}
		q.sendErrors.Add(1)
		q.log.Error("the kernel refused a verdict", "queue", q.num, "err", errno)
	default:
		q.handler.Refused(seq, errno)
	}
}

// send writes the messages in before and, if accept, the verdict for the packet
// id in one datagram. Verdicts are taken only from the socket that is bound.
func (q *Queue) send(before []byte, id uint32, accept bool) error {
	q.sendMu.Lock()
	defer q.sendMu.Unlock()
	q.out = append(q.out[:0], before...)
	if accept {
		q.out = appendVerdict(q.out, q.num, id)
	}
	err := q.flush()
	if err != nil && !errors.Is(err, os.ErrClosed) {
		q.sendErrors.Add(1)
	}
	return err
}

// acceptAll accepts every packet that waits in the kernel, and sends the
// messages in after with that.
func (q *Queue) acceptAll(after []byte) error {
	q.sendMu.Lock()
	defer q.sendMu.Unlock()
	// Within half the circle of IDs everything counts as before this one.
	q.out = appendVerdictBatch(q.out[:0], q.num, q.lastID.Load()+1<<30)
	q.out = append(q.out, after...)
	return q.flush()
}

func (q *Queue) flush() error {
	if err := q.raw.Write(q.write); err != nil {
		select {
		case <-q.closed:
			return os.ErrClosed
		default:
			return err
		}
	}
	return q.sendErr
}
