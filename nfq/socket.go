package nfq

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is the package's own driver: one blocking netlink socket that a thread
// of its own reads, several packets a system call, into buffers that are used
// again and again, and answers with one datagram for all of them.
type socket struct {
	q    *Queue
	fd   int
	loop sync.WaitGroup
	recv [batch]message
	hdrs [batch]mmsghdr

	busyPoll time.Duration
	credit   int // what says whether polling pays
}

// maxCredit is how many waits in vain it takes to end the polling.
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
	_   [4]byte
}

// maxCopy is the most that the kernel copies of a packet (nfqnl_recv_config).
const maxCopy = 0xffff - 4

func openSocket(cfg Config, q *Queue) (driver, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, newError("open", cfg.Num, err)
	}
	s := &socket{q: q, fd: fd, busyPoll: cfg.BusyPoll}
	if err := s.bind(cfg); err != nil {
		_ = unix.Close(fd)
		return nil, newError("bind", cfg.Num, err)
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
	return noSilent.attach(s.fd)
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
	h, body, _, ok := nextMessage(buf[:n])
	if !ok || h.typ != unix.NLMSG_ERROR || len(body) < 4 {
		return errAnswer
	}
	if errno := answered(body); errno != 0 {
		return errno
	}
	return nil
}

var errAnswer = errors.New("unexpected answer of the kernel")

// receive is the loop. It has its thread to itself: a read that blocks there
// wakes faster than one that the runtime's poller has to hand over.
func (s *socket) receive() {
	defer s.loop.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if !s.q.wait() {
		return
	}
	for {
		n, errno := s.read()
		if s.q.isClosed() {
			return
		}
		if errno != 0 {
			if s.q.survives(errno) {
				continue
			}
			s.q.fail(os.NewSyscallError("recvmmsg", errno))
			return
		}
		s.q.begin()
		for i := range n {
			s.datagram(s.recv[i].buf[:min(int(s.hdrs[i].n), len(s.recv[i].buf))])
		}
		s.q.end()
	}
}

// read waits for a datagram and takes those that have come with it.
//
// To sleep and be woken takes longer than to handle a packet, for this thread and
// for the sender that wakes it. So where packets have come close after one another,
// read first looks for the next one for a while. That pays as long as no more than
// two waits of three are longer; else the credit runs out.
func (s *socket) read() (int, unix.Errno) {
	if s.busyPoll <= 0 {
		return s.receiveMany(unix.MSG_WAITFORONE)
	}
	began := time.Now()
	if s.credit > 0 {
		for time.Since(began) < s.busyPoll {
			n, errno := s.receiveMany(unix.MSG_DONTWAIT)
			if errno != unix.EAGAIN {
				s.credit = min(s.credit+2, maxCredit)
				return n, errno
			}
			// Whose turn it is may be the very one who sends the next packet.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	n, errno := s.receiveMany(unix.MSG_WAITFORONE)
	if time.Since(began) < s.busyPoll {
		s.credit = min(s.credit+2, maxCredit)
	} else {
		s.credit = max(s.credit-1, 0)
	}
	return n, errno
}

// receiveMany is recvmmsg(2). With MSG_DONTWAIT it returns at once, and the
// runtime's scheduler need not know of it.
func (s *socket) receiveMany(flags uintptr) (n int, errno unix.Errno) {
	for {
		var r uintptr
		if flags&unix.MSG_DONTWAIT != 0 {
			r, _, errno = unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs)), batch, flags, 0, 0)
		} else {
			r, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs)), batch, flags, 0, 0)
		}
		if errno != unix.EINTR {
			return int(r), errno
		}
	}
}

// datagram takes what the kernel sent: packets and answers.
func (s *socket) datagram(b []byte) {
	for len(b) > 0 {
		h, body, rest, ok := nextMessage(b)
		if !ok {
			return
		}
		b = rest
		switch h.typ {
		case msgPacket:
			if id, payload, conntrack, ok := parsePacket(body); ok {
				s.q.packetIn(id, payload, conntrack)
			}
		case unix.NLMSG_ERROR:
			if len(body) >= 4 {
				if errno := answered(body); errno != 0 {
					s.q.refused(h.seq, errno)
				}
			}
		}
	}
}

// send implements driver.
func (s *socket) send(b []byte) error {
	for {
		_, err := unix.Write(s.fd, b)
		if err != unix.EINTR {
			return os.NewSyscallError("write", err)
		}
	}
}

// close implements driver. The loop may be blocked in a read that nothing but a
// datagram ends: the answer to a message that asks for one.
func (s *socket) close() error {
	err := s.send(appendCommand(nil, s.q.num, commandNothing))
	s.loop.Wait()
	return errors.Join(err, os.NewSyscallError("close", unix.Close(s.fd)))
}

// header is what matters of struct nlmsghdr.
type header struct {
	typ uint16
	seq uint32
}

// nextMessage cuts the first message off b.
func nextMessage(b []byte) (h header, body, rest []byte, ok bool) {
	if len(b) < nlmsgHeaderLen {
		return header{}, nil, nil, false
	}
	n := binary.NativeEndian.Uint32(b)
	if n < nlmsgHeaderLen || uint64(n) > uint64(len(b)) {
		return header{}, nil, nil, false
	}
	h = header{typ: binary.NativeEndian.Uint16(b[4:]), seq: binary.NativeEndian.Uint32(b[8:])}
	return h, b[nlmsgHeaderLen:n], b[min(int(n+3)&^3, len(b)):], true
}

// answered is the errno in the body of an NLMSG_ERROR, 0 for an ACK.
func answered(body []byte) unix.Errno {
	return unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
}

// parsePacket finds the packet in the body of an NFQNL_MSG_PACKET. A message
// without a payload is one of a packet without bytes.
func parsePacket(body []byte) (id uint32, payload, conntrack []byte, ok bool) {
	if len(body) < nfgenmsgLen {
		return 0, nil, nil, false
	}
	b := body[nfgenmsgLen:]
	for len(b) >= attrHeaderLen {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrHeaderLen || n > len(b) {
			break
		}
		value := b[attrHeaderLen:n]
		switch binary.NativeEndian.Uint16(b[2:]) & attrTypeMask {
		case nfqaPacketHeader:
			if len(value) >= 4 {
				id, ok = binary.BigEndian.Uint32(value), true
			}
		case nfqaPayload:
			payload = value
		case nfqaConntrack:
			conntrack = value
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return id, payload, conntrack, ok
}
