package nfq

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ftpctd/nfq/nfnetlink"
)

// socket is the package's own driver: a netlink socket, and a goroutine that reads
// several datagrams a system call into buffers that it reuses, and answers all of
// them with one.
//
// A sleep and wake-up cost more than handling a packet, for this thread and for the
// sender that wakes it. The socket therefore waits in three stages; the first two
// are skipped when recent history says that they do not pay off:
//
//   - Polling, for busyPoll.
//   - Sleeping in a system call that Go's scheduler does not know of, for
//     sleepLimit. The scheduler would otherwise take the goroutine's P away and give
//     it back, and check every 20 us whether to do so.
//   - Sleeping in the runtime's poller.
//
// The scheduler need not know of the other system calls either: they wait for
// nothing but the kernel's own work.
//
// So the goroutine hardly ever leaves its P, which may be the only one. It yields to
// other goroutines every yieldInterval, and when the handler may have started one.
type socket struct {
	q    *Queue
	file *os.File // registers the socket with the runtime's poller
	raw  syscall.RawConn
	fd   int
	loop sync.WaitGroup
	recv [batch]message
	hdrs [batch]mmsghdr

	// Of one call of wait.
	pollFn func(fd uintptr) (done bool) // poll, as a value that is allocated once
	start  time.Time
	n      int // datagrams received
	errno  unix.Errno

	busyPoll              time.Duration
	spinScore, sleepScore score
	lastYield             time.Time
}

// yieldInterval costs next to nothing and does not delay other goroutines
// noticeably.
const yieldInterval = time.Millisecond

// sleepLimit is short enough for everything else that the process does to wait for
// it.
const sleepLimit = 2 * time.Millisecond

// score says whether a stage of waiting pays off. It is a saturating counter: 2 more
// when a packet arrived within the stage's time, 1 less when not. A stage is used
// while its score is positive, that is, while it succeeds at least one time in three.
type score int

// after returns the score after one more wait, in which a packet arrived in time or
// not.
func (s score) after(inTime bool) score {
	if inTime {
		return min(s+2, maxScore)
	}
	return max(s-1, 0)
}

// maxScore is the number of consecutive failures after which a stage is abandoned.
const maxScore = 8

// batch is the maximum number of datagrams that are read at a time.
const batch = 16

// message is the buffer of one datagram.
type message struct {
	iov unix.Iovec
	buf []byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// maxCopy is the most that the kernel copies of a packet (nfqnl_recv_config).
const maxCopy = 0xffff - 4

func openSocket(cfg Config, q *Queue) (driver, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, newError("open", cfg.Num, err)
	}
	s := &socket{q: q, fd: fd}
	if runtime.NumCPU() > 1 { // else polling would keep the sender of the next packet from running
		s.busyPoll = cfg.BusyPoll
	}
	s.pollFn = s.poll
	if err := s.bind(cfg); err != nil {
		_ = unix.Close(fd)
		return nil, newError("bind", cfg.Num, err)
	}
	s.file = os.NewFile(uintptr(fd), fmt.Sprintf("nfqueue %d", cfg.Num))
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, newError("open", cfg.Num, errors.Join(err, s.file.Close()))
	}
	s.loop.Add(1)
	go s.receive()
	return s, nil
}

// bind configures the queue. A filter keeps packets off the socket until that is
// done, so that the next datagram is an ACK.
func (s *socket) bind(cfg Config) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if cfg.ReadBuffer > 0 {
		// With CAP_NET_ADMIN the size may exceed net.core.rmem_max.
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, cfg.ReadBuffer) != nil {
			if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, cfg.ReadBuffer); err != nil {
				return err
			}
		}
	}
	copyRange := cfg.CopyRange
	if copyRange == 0 || copyRange > maxCopy {
		copyRange = maxCopy
	}
	for i := range s.recv {
		m := &s.recv[i]
		m.buf = make([]byte, copyRange+messageOverhead)
		m.iov = unix.Iovec{Base: &m.buf[0]}
		m.iov.SetLen(len(m.buf))
		s.hdrs[i].hdr = unix.Msghdr{Iov: &m.iov}
		s.hdrs[i].hdr.SetIovlen(1)
	}
	if err := noPackets.attach(s.fd); err != nil {
		return err
	}
	if err := s.configure(appendCommand(nil, cfg.Num, commandBind)); err != nil {
		return err
	}
	err := s.q.setFlags(cfg, func(flags uint32) error {
		return s.configure(appendConfig(nil, cfg.Num, copyRange, cfg.Length, flags))
	})
	if err != nil {
		return err
	}
	if err := noSilent.attach(s.fd); err != nil {
		return err
	}
	return unix.SetNonblock(s.fd, true) // from now on, only packets are waited for
}

// configure sends a message and waits for its ACK.
func (s *socket) configure(config []byte) error {
	if _, err := unix.Write(s.fd, config); err != nil {
		return os.NewSyscallError("write", err)
	}
	buf := s.recv[0].buf
	n, err := unix.Read(s.fd, buf)
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	m, _, _ := nfnetlink.NextMessage(buf[:n])
	errno, ok := m.Errno()
	switch {
	case !ok:
		return errReply
	case errno != 0:
		return errno
	}
	return nil
}

var errReply = errors.New("unexpected reply from kernel")

// receive is the receive loop.
func (s *socket) receive() {
	defer s.loop.Done()
	if !s.q.waitRunning() {
		return
	}
	for {
		n, err := s.wait()
		if s.q.isClosed() {
			return
		}
		if err != nil {
			if s.q.recoverable(err) {
				continue
			}
			s.q.fail(os.NewSyscallError("recvmmsg", err))
			return
		}
		s.q.beginBatch()
		for i := range n {
			s.datagram(s.recv[i].buf[:min(int(s.hdrs[i].n), len(s.recv[i].buf))])
		}
		s.q.flush()
	}
}

// wait waits for a datagram, and receives those that have arrived with it. Closing
// the file ends it.
func (s *socket) wait() (n int, err error) {
	s.start = time.Now()
	if s.q.handlerSpawned || s.start.Sub(s.lastYield) >= yieldInterval {
		s.q.handlerSpawned, s.lastYield = false, s.start
		runtime.Gosched()
	}
	err = s.raw.Read(s.pollFn)
	waited := time.Since(s.start)
	s.spinScore = s.spinScore.after(waited < s.busyPoll)
	s.sleepScore = s.sleepScore.after(waited < sleepLimit)
	if err == nil && s.errno != 0 {
		err = s.errno
	}
	return s.n, err
}

// poll receives what has arrived, and reports whether that is anything. If not, the
// runtime's poller sleeps and calls poll again.
func (s *socket) poll(uintptr) (done bool) {
	for {
		s.n, s.errno = s.receiveMany()
		if s.errno != unix.EAGAIN {
			return true
		}
		switch waited := time.Since(s.start); {
		case s.spinScore > 0 && waited < s.busyPoll:
			// The thread we yield to may be the one that sends the next packet.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		case s.sleepScore > 0 && waited < sleepLimit:
			s.sleepInSyscall(sleepLimit - waited)
		default:
			return false
		}
	}
}

// sleepInSyscall sleeps until a datagram arrives, or for limit. Signals end it too,
// with which the runtime asks for the goroutine's P.
func (s *socket) sleepInSyscall(limit time.Duration) {
	fds := unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(limit.Nanoseconds())
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
}

// receiveMany is recvmmsg(2) without waiting.
func (s *socket) receiveMany() (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs)), batch, 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// datagram handles what the kernel sent: packets, and errors.
func (s *socket) datagram(b []byte) {
	for len(b) > 0 {
		m, rest, ok := nfnetlink.NextMessage(b)
		if !ok {
			return
		}
		b = rest
		if m.Type == msgPacket {
			if id, payload, conntrack, ok := parsePacket(m); ok {
				s.q.handle(id, payload, conntrack)
			}
		} else if errno, ok := m.Errno(); ok && errno != 0 {
			s.q.rejected(m.Seq, errno)
		}
	}
}

// send implements driver. The kernel has carried out the messages when write(2)
// returns.
func (s *socket) send(b []byte) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("write", errno)
		}
	}
}

// close implements driver.
func (s *socket) close() error {
	err := s.file.Close()
	s.loop.Wait()
	return err
}
