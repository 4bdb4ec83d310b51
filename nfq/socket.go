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

// socket is the package's own driver: one netlink socket that a goroutine reads,
// several packets a system call, into buffers that are used again and again, and
// answers with one datagram for all of them.
//
// To be put to sleep and woken takes longer than to handle a packet, for this
// thread and for the sender that wakes it. So there are three ways to wait for the
// next packet, one after the other, the first two only while they pay:
//
//   - To look for it again and again, for busyPoll.
//   - To sleep in a system call that Go's scheduler does not know of, for doze. Else
//     it would take the goroutine's place away and give it back, and look every 20 us
//     whether to do so.
//   - To sleep in the runtime's poller.
//
// The other system calls wait for nothing but the kernel's own work, so the scheduler
// need not know of them either.
//
// Thus the goroutine hardly ever leaves its place, which may be the only one. It makes
// room for the others every so often, and whenever the handler has given them work.
type socket struct {
	q    *Queue
	file *os.File // what the runtime's poller knows the socket by
	raw  syscall.RawConn
	fd   int
	loop sync.WaitGroup
	recv [batch]message
	hdrs [batch]mmsghdr

	// Of the look for packets that goes on.
	looked func(fd uintptr) (done bool) // look, as a value that is made once
	began  time.Time
	found  int
	errno  unix.Errno

	busyPoll     time.Duration
	polls, dozes credit
	madeRoom     time.Time
}

// roomEvery is how often other goroutines get their turn: next to nothing, and soon
// enough.
const roomEvery = time.Millisecond

// doze is short enough for whatever else the process does to wait for it.
const doze = 2 * time.Millisecond

// credit says whether a way to wait pays: while packets come in its time in no less
// than a third of all waits.
type credit int

// after returns the credit after one more wait, that was short or not.
func (c credit) after(short bool) credit {
	if short {
		return min(c+2, maxCredit)
	}
	return max(c-1, 0)
}

// maxCredit is how many waits in vain it takes to give a way up.
const maxCredit = 8

// batch is how many packets are read at a time, at most.
const batch = 16

// message is one datagram of the kernel's.
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
	if runtime.NumCPU() > 1 { // else whoever sends the next packet is kept from it
		s.busyPoll = cfg.BusyPoll
	}
	s.looked = s.look
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

// bind configures the queue. Packets are kept off the socket until that is done,
// so that the next datagram is an ACK.
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
	return unix.SetNonblock(s.fd, true) // now that nothing but packets is waited for
}

// configure sends a message that asks for an ACK, and waits for it.
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
		return errAnswer
	case errno != 0:
		return errno
	}
	return nil
}

var errAnswer = errors.New("unexpected answer of the kernel")

// receive is the loop.
func (s *socket) receive() {
	defer s.loop.Done()
	if !s.q.wait() {
		return
	}
	for {
		n, err := s.read()
		if s.q.isClosed() {
			return
		}
		if err != nil {
			if s.q.survives(err) {
				continue
			}
			s.q.fail(os.NewSyscallError("recvmmsg", err))
			return
		}
		s.q.begin()
		for i := range n {
			s.datagram(s.recv[i].buf[:min(int(s.hdrs[i].n), len(s.recv[i].buf))])
		}
		s.q.end()
	}
}

// read waits for a datagram and takes those that have come with it. Closing the
// file ends that.
func (s *socket) read() (int, error) {
	s.began = time.Now()
	if s.q.gaveWork || s.began.Sub(s.madeRoom) >= roomEvery {
		s.q.gaveWork, s.madeRoom = false, s.began
		runtime.Gosched()
	}
	err := s.raw.Read(s.looked)
	waited := time.Since(s.began)
	s.polls = s.polls.after(waited < s.busyPoll)
	s.dozes = s.dozes.after(waited < doze)
	if err == nil && s.errno != 0 {
		err = s.errno
	}
	return s.found, err
}

// look takes what has come, and reports whether that is anything. If not, the
// runtime's poller waits and has it look again.
func (s *socket) look(uintptr) (done bool) {
	for {
		s.found, s.errno = s.receiveMany()
		if s.errno != unix.EAGAIN {
			return true
		}
		switch waited := time.Since(s.began); {
		case s.polls > 0 && waited < s.busyPoll:
			// Whose turn it is may be the very one who sends the next packet.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		case s.dozes > 0 && waited < doze:
			s.doze(doze - waited)
		default:
			return false
		}
	}
}

// doze sleeps until a datagram comes, for at most a time. Signals end it too, with
// which the runtime asks for the goroutine's place.
func (s *socket) doze(limit time.Duration) {
	fds := unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(limit.Nanoseconds())
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
}

// receiveMany is recvmmsg(2), which does not wait.
func (s *socket) receiveMany() (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs)), batch, 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// datagram takes what the kernel sent: packets and answers.
func (s *socket) datagram(b []byte) {
	for len(b) > 0 {
		m, rest, ok := nfnetlink.NextMessage(b)
		if !ok {
			return
		}
		b = rest
		if m.Type == msgPacket {
			if id, payload, conntrack, ok := parsePacket(m); ok {
				s.q.packetIn(id, payload, conntrack)
			}
		} else if errno, ok := m.Errno(); ok && errno != 0 {
			s.q.refused(m.Seq, errno)
		}
	}
}

// send implements driver. The kernel carries the messages out before write(2)
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
