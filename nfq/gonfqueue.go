package nfq

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// goNFQueue is the driver on github.com/florianl/go-nfqueue. The library sends
// no more than a verdict in a datagram, so its socket is written to directly.
type goNFQueue struct {
	q   *Queue
	nf  *nfqueue.Nfqueue
	raw syscall.RawConn

	out     []byte // what write writes
	sendErr error
	write   func(fd uintptr) bool // made once, so as not to allocate
}

func openGoNFQueue(cfg Config, q *Queue) (driver, error) {
	d := newGoNFQueue(q)
	if err := q.setFlags(cfg, func(flags uint32) error { return d.open(cfg, flags) }); err != nil {
		return nil, err
	}
	return d, nil
}

// open opens the library's socket, whose flags cannot be changed any more, and
// starts the receive loop.
func (d *goNFQueue) open(cfg Config, flags uint32) error {
	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      cfg.Num,
		MaxQueueLen:  cfg.Length,
		MaxPacketLen: cfg.CopyRange,
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        flags,
		AfFamily:     unix.AF_UNSPEC, // both families come
	})
	if err != nil {
		return newError("open", cfg.Num, err)
	}
	d.nf = nf
	if err := d.bind(cfg); err != nil {
		_ = nf.Close()
		return newError("bind", cfg.Num, err)
	}
	return nil
}

func newGoNFQueue(q *Queue) *goNFQueue {
	d := &goNFQueue{q: q}
	d.write = func(fd uintptr) bool {
		for {
			_, err := unix.Write(int(fd), d.out)
			if err == unix.EINTR {
				continue
			}
			d.sendErr = err
			return err != unix.EAGAIN // false waits until the socket is writable
		}
	}
	return d
}

// bind configures the queue and starts the receive loop.
//
// The library waits for an ACK after each step of the configuration and takes the next
// datagram for it. With rules in place already, that may be a packet. A filter therefore
// drops packets until the queue is configured; Open then accepts those that the kernel
// has queued.
func (d *goNFQueue) bind(cfg Config) error {
	if cfg.ReadBuffer > 0 {
		if err := d.nf.Con.SetReadBuffer(cfg.ReadBuffer); err != nil {
			return err
		}
	}
	raw, err := d.nf.Con.SyscallConn()
	if err != nil {
		return err
	}
	d.raw = raw
	if err := d.filter(noPackets); err != nil {
		return err
	}
	// The receive loop ends with the socket, not with a context.
	if err := d.nf.RegisterWithErrorFunc(context.Background(), d.receive, d.receiveError); err != nil {
		return err
	}
	return d.filter(noSilent)
}

func (d *goNFQueue) filter(f socketFilter) error {
	var attachErr error
	if err := d.raw.Control(func(fd uintptr) { attachErr = f.attach(int(fd)) }); err != nil {
		return err
	}
	return attachErr
}

// send implements driver.
func (d *goNFQueue) send(b []byte) error {
	d.out = b
	if err := d.raw.Write(d.write); err != nil {
		return err
	}
	return d.sendErr
}

// close implements driver.
func (d *goNFQueue) close() error { return d.nf.Close() }

// What a callback of go-nfqueue returns.
const (
	goOn = 0
	stop = 1
)

// receive is go-nfqueue's callback for a message.
func (d *goNFQueue) receive(a nfqueue.Attribute) int {
	if !d.q.waitRunning() {
		return stop
	}
	if a.PacketID == nil {
		return goOn // an ACK
	}
	var b, conntrack []byte
	if a.Payload != nil {
		b = *a.Payload
	}
	if a.Ct != nil {
		conntrack = *a.Ct
	}
	d.q.beginBatch()
	d.q.handle(*a.PacketID, b, conntrack)
	d.q.flush()
	return goOn
}

// receiveError is go-nfqueue's callback for an error.
func (d *goNFQueue) receiveError(err error) int {
	if _, ok := errors.AsType[*os.SyscallError](err); !ok {
		// Not from the socket, but the kernel's answer to a message.
		op, ok := errors.AsType[*netlink.OpError](err)
		errno, isErrno := errors.AsType[unix.Errno](err)
		if ok && isErrno {
			d.q.rejected(op.Sequence, errno)
			return goOn
		}
	}
	if d.q.recoverable(err) {
		return goOn
	}
	d.q.fail(err) // the library unbinds at once when this returns
	return stop
}
