package main

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/ftpparse"
)

// role is the purpose of a socket.
type role uint8

const (
	controlListener role = iota
	control
	dataListener
	data

	roleBits = 2
)

// poller waits for any number of sockets on one thread, with as few system calls as
// possible: the benchmark's client and server share the CPUs with the daemon they
// measure. Sockets are created in the network namespace of the calling thread.
type poller struct {
	epoll  int
	events [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{epoll: fd}, err
}

func (p *poller) close() { _ = unix.Close(p.epoll) }

// add makes wait report events of a socket. Closing the socket removes it.
func (p *poller) add(fd int, r role, session int, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: events, Fd: int32(fd), Pad: int32(session)<<roleBits | int32(r),
	})
}

// wait waits for at most timeout, or indefinitely if that is negative, and calls
// handle for each socket with an event.
func (p *poller) wait(timeout time.Duration, handle func(fd int, r role, session int) error) error {
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(p.epoll, p.events[:], ms)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, ev := range p.events[:n] {
		if err := handle(int(ev.Fd), role(ev.Pad&(1<<roleBits-1)), int(ev.Pad>>roleBits)); err != nil {
			return err
		}
	}
	return nil
}

// connect starts connecting to an address; it does not wait.
func (p *poller) connect(to netip.AddrPort, r role, session int) (fd int, err error) {
	fd, err = newSocket(to.Addr())
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, p.add(fd, r, session, unix.EPOLLIN)
}

// listen listens on an address; with port 0 the kernel chooses the port.
func (p *poller) listen(at netip.AddrPort, r role, session int) (fd int, port uint16, err error) {
	fd, err = newSocket(at.Addr())
	if err != nil {
		return -1, 0, err
	}
	for _, step := range []func() error{
		func() error { return unix.Bind(fd, sockaddr(at)) },
		func() error { return unix.Listen(fd, 1024) },
		func() error { at, err = localAddrPort(fd); return err },
		func() error { return p.add(fd, r, session, unix.EPOLLIN) },
	} {
		if err := step(); err != nil {
			_ = unix.Close(fd)
			return -1, 0, err
		}
	}
	return fd, at.Port(), nil
}

// accept accepts the next connection of a listener; flags are those of accept4(2).
func accept(listener, flags int) (fd int, err error) {
	fd, _, err = unix.Accept4(listener, flags|unix.SOCK_CLOEXEC)
	return fd, err
}

// resetClose closes a connection with a RST, after the peer has closed its half. So
// neither end keeps it in TIME_WAIT: 100,000 of these would slow down later
// measurements.
func resetClose(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

func newSocket(addr netip.Addr) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func localAddrPort(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// hostPort formats an IPv4 endpoint as in PORT and 227 (RFC 959 section 4.1.2).
func hostPort(a netip.AddrPort) string {
	return string(ftpparse.PORT.AppendEndpoint(nil, a))
}

// send writes a line to a control connection. Its send buffer always has room for one.
func send(fd int, line string) error {
	_, err := unix.Write(fd, []byte(line))
	return err
}

// lineBuffer holds the received part of a line.
type lineBuffer struct {
	bytes [512]byte
	n     int
}

var errLongLine = errors.New("line longer than 512 bytes")

// read reads once from a control connection and calls handle with each complete line,
// without its CRLF. It returns false at the end of the connection.
func (b *lineBuffer) read(fd int, handle func(line []byte) error) (open bool, err error) {
	if b.n == len(b.bytes) {
		return false, errLongLine
	}
	n, err := unix.Read(fd, b.bytes[b.n:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return true, nil
	case err != nil || n == 0:
		return false, err
	}
	b.n += n
	begin := 0
	for i := b.n - n; i < b.n; i++ {
		if b.bytes[i] != '\n' {
			continue
		}
		end := i
		if end > begin && b.bytes[end-1] == '\r' {
			end--
		}
		if err := handle(b.bytes[begin:end]); err != nil {
			return true, err
		}
		begin = i + 1
	}
	b.n = copy(b.bytes[:], b.bytes[begin:b.n])
	return true, nil
}
