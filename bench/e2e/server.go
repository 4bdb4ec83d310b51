package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/ftpparse"
)

// server is the FTP server of a lab, on one thread. It implements only the commands of
// the loads. A session listens on one port for all its passive data connections: a
// new listener for each would cost the server more than the router's work.
type server struct {
	poller   *poller
	stop     int // an eventfd: readable once the server is to stop
	done     chan error
	sessions map[int]*serverSession // by the descriptor of the control connection
	open     []int                  // listeners for control connections
}

type serverSession struct {
	local    netip.Addr
	in       lineBuffer
	listener int // for data connections; 0 before the first PASV or EPSV
	port     uint16
	size     int // of each data connection, in bytes
}

// chunk is the data of one write on a data connection.
var chunk [1 << 20]byte

// serve starts the server on both addresses of a host.
func serve(h *lab.Host) (*server, error) {
	s := &server{done: make(chan error, 1), sessions: make(map[int]*serverSession)}
	listening := make(chan error, 1)
	go func() {
		s.done <- h.Do(func() error {
			err := s.listen(h)
			defer s.release()
			listening <- err
			if err != nil {
				return err
			}
			return s.run()
		})
	}()
	return s, <-listening
}

func (s *server) listen(h *lab.Host) (err error) {
	if s.poller, err = newPoller(); err != nil {
		return err
	}
	if s.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if err := s.poller.add(s.stop, control, s.stop, unix.EPOLLIN); err != nil {
		return err
	}
	for _, addr := range h.Addrs() {
		fd, _, err := s.poller.listen(netip.AddrPortFrom(addr, lab.ControlPort), controlListener, 0)
		if err != nil {
			return fmt.Errorf("listen at %v: %w", addr, err)
		}
		s.open = append(s.open, fd)
	}
	return nil
}

// release closes all sockets of the server.
func (s *server) release() {
	for fd := range s.sessions {
		s.end(fd)
	}
	for _, fd := range append(s.open, s.stop) {
		_ = unix.Close(fd)
	}
	s.poller.close()
}

// close stops the server.
func (s *server) close() error {
	if _, err := unix.Write(s.stop, []byte{7: 1}); err != nil {
		return err
	}
	return <-s.done
}

func (s *server) run() error {
	for stopped := false; !stopped; {
		err := s.poller.wait(-1, func(fd int, r role, session int) error {
			stopped = stopped || fd == s.stop
			if stopped {
				return nil
			}
			return s.handle(fd, r, session)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *server) handle(fd int, r role, session int) error {
	switch r {
	case controlListener:
		return s.greet(fd)
	case control:
		ss := s.sessions[fd]
		open, err := ss.in.read(fd, func(line []byte) error { return s.command(fd, ss, line) })
		if err != nil || !open {
			s.end(fd)
		}
		return nil
	case dataListener:
		return s.deliver(fd, session)
	default: // the client closed a data connection that the server opened
		resetClose(fd)
		return nil
	}
}

func (s *server) greet(listener int) error {
	fd, err := accept(listener, unix.SOCK_NONBLOCK)
	if err != nil {
		return nil // the client is gone
	}
	local, err := localAddrPort(fd)
	if err != nil {
		return err
	}
	s.sessions[fd] = &serverSession{local: local.Addr()}
	if err := s.poller.add(fd, control, fd, unix.EPOLLIN); err != nil {
		return err
	}
	return send(fd, "220 Benchmark.\r\n")
}

// deliver serves a passive data connection. It blocks until all data is sent: a load
// with a size has only one client.
func (s *server) deliver(listener, session int) error {
	fd, err := accept(listener, 0)
	if err != nil {
		return nil // the client is gone
	}
	for left := s.sessions[session].size; left > 0; {
		n, err := unix.Write(fd, chunk[:min(left, len(chunk))])
		if err != nil {
			break // the client notices, too
		}
		left -= n
	}
	return unix.Close(fd)
}

// command answers a line of the client.
func (s *server) command(fd int, ss *serverSession, line []byte) error {
	verb, argument, _ := strings.Cut(string(line), " ")
	switch verb {
	case "USER":
		return send(fd, "331 Any password will do.\r\n")
	case "PASS":
		return send(fd, "230 Logged in.\r\n")
	case "ALLO": // announces the size of a transfer (RFC 959 section 4.1.3)
		var err error
		if ss.size, err = strconv.Atoi(argument); err != nil {
			return send(fd, "501 How many bytes?\r\n")
		}
		return send(fd, "200 Data connections carry that much.\r\n")
	case "NOOP":
		return send(fd, "200 Done.\r\n")
	case "PASV", "EPSV":
		if err := s.passive(fd, ss); err != nil {
			return err
		}
		if verb == "EPSV" {
			return send(fd, fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|).\r\n", ss.port))
		}
		return send(fd, fmt.Sprintf("227 Entering Passive Mode (%s).\r\n", hostPort(netip.AddrPortFrom(ss.local, ss.port))))
	case "PORT":
		to, why := ftpparse.PORT.Endpoint(line)
		if why != "" {
			return send(fd, "501 "+string(why)+".\r\n")
		}
		if _, err := s.poller.connect(to, data, fd); err != nil {
			return send(fd, "425 Cannot connect.\r\n")
		}
		return send(fd, "200 Connecting.\r\n")
	}
	return send(fd, "502 Not in a benchmark.\r\n")
}

// passive makes the session listen for data connections, once.
func (s *server) passive(fd int, ss *serverSession) (err error) {
	if ss.listener == 0 {
		ss.listener, ss.port, err = s.poller.listen(netip.AddrPortFrom(ss.local, 0), dataListener, fd)
	}
	return err
}

// end closes a session.
func (s *server) end(fd int) {
	if ss := s.sessions[fd]; ss.listener != 0 {
		_ = unix.Close(ss.listener)
	}
	delete(s.sessions, fd)
	_ = unix.Close(fd)
}
