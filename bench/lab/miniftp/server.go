package miniftp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/ftpparse"
)

// Server is an FTP server. It accepts any user and password, and keeps its files in
// memory, in one directory. Set the exported fields before Serve; all but Network may
// be zero.
type Server struct {
	// Network opens the data sockets.
	Network Network

	// PassivePorts are the first and the last port announced by 227 and 229. If
	// both are 0 the kernel chooses the port.
	PassivePorts [2]uint16

	// PassiveAddr is the address that 227 names instead of the server's own.
	PassiveAddr netip.Addr

	// DataTimeout is how long the server waits for a data connection to open;
	// DefaultDataTimeout if 0.
	DataTimeout time.Duration

	// Greeting is the complete first reply; "220 miniftp" if empty.
	Greeting string

	// PassiveDelay is a pause between listening for a passive data connection
	// and the reply that announces the port.
	PassiveDelay time.Duration

	// ByteWise makes the server send its replies in one-byte segments.
	ByteWise bool

	// EagerConnect makes the server open an active data connection before it
	// replies to PORT or EPRT, instead of for the transfer command.
	EagerConnect bool

	// Trace, if set, is called with each line of a client before the command is
	// executed, in the session's goroutine.
	Trace func(line string)

	mu    sync.Mutex
	files map[string][]byte
}

// ActivePort is the server's port of active data connections (RFC 959 section 3.2).
const ActivePort = 20

// Put stores a file. The caller must not modify data afterwards.
func (s *Server) Put(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = make(map[string][]byte)
	}
	s.files[name] = data
}

// File returns a file, and whether it exists. The caller must not modify data.
func (s *Server) File(name string) (data []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok = s.files[name]
	return data, ok
}

func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.files))
}

// Serve accepts control connections until ctx is done or the listener fails. It closes
// the listener and all connections, and returns when all sessions have ended: nil if
// ctx was done, else the listener's error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		_ = l.Close()
		close(closed)
	})
	// The address is free only after Close returned.
	defer func() { cancel(); <-closed }()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return &OpError{Op: "serve", Err: err}
		}
		sessions.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			ss := &session{Server: s, conn: conn}
			ss.run(ctx)
			ss.reset()
			_ = conn.Close() // the session is over either way
		})
	}
}

// session is one control connection of a Server.
type session struct {
	*Server
	conn net.Conn

	extendedOnly bool // after EPSV ALL

	// The endpoint of the next data connection; at most one is set.
	passive *net.TCPListener // to be accepted
	active  netip.AddrPort   // to be opened
	opened  net.Conn         // already open (EagerConnect)
}

// reset forgets the endpoint of the next data connection.
func (ss *session) reset() {
	if ss.passive != nil {
		_ = ss.passive.Close()
		ss.passive = nil
	}
	if ss.opened != nil {
		_ = ss.opened.Close()
		ss.opened = nil
	}
	ss.active = netip.AddrPort{}
}

func (ss *session) reply(format string, args ...any) error {
	return write(ss.conn, fmt.Sprintf(format, args...), ss.ByteWise)
}

// run executes commands until QUIT or the first error of the control connection.
func (ss *session) run(ctx context.Context) {
	greeting := ss.Greeting
	if greeting == "" {
		greeting = "220 miniftp"
	}
	if ss.reply("%s", greeting) != nil {
		return
	}
	lines := bufio.NewScanner(ss.conn)
	for lines.Scan() {
		if ss.Trace != nil {
			ss.Trace(lines.Text())
		}
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		verb = strings.ToUpper(verb)
		if ss.serve(ctx, verb, arg) != nil || verb == "QUIT" {
			return
		}
	}
}

// serve executes one command. Its error is the control connection's.
func (ss *session) serve(ctx context.Context, verb, arg string) error {
	switch verb {
	case "USER":
		return ss.reply("331 Any password will do.")
	case "PASS":
		return ss.reply("230 Logged in.")
	case "TYPE", "MODE", "STRU", "NOOP":
		return ss.reply("200 OK.")
	case "SYST":
		return ss.reply("215 UNIX Type: L8")
	case "FEAT":
		// RFC 2389. Some clients use EPSV only if it is listed.
		return ss.reply("211-Features:\r\n EPRT\r\n EPSV\r\n SIZE\r\n211 End")
	case "PWD":
		return ss.reply(`257 "/" is the current directory.`)
	case "CWD":
		return ss.reply("250 OK.")
	case "SIZE":
		data, ok := ss.File(path.Base(arg))
		if !ok {
			return ss.reply("550 No such file.")
		}
		return ss.reply("213 %d", len(data))
	case "PASV", "EPSV":
		return ss.listen(ctx, verb, arg)
	case "PORT", "EPRT":
		return ss.port(ctx, verb, arg)
	case "LIST", "NLST":
		var list bytes.Buffer
		for _, name := range ss.names() {
			data, _ := ss.File(name)
			if verb == "LIST" {
				fmt.Fprintf(&list, "-rw-r--r-- 1 ftp ftp %d Jan  1 00:00 ", len(data))
			}
			list.WriteString(name + "\r\n")
		}
		return ss.send(ctx, list.Bytes())
	case "RETR":
		data, ok := ss.File(path.Base(arg))
		if !ok {
			return ss.reply("550 No such file.")
		}
		return ss.send(ctx, data)
	case "STOR":
		return ss.transfer(ctx, func(conn net.Conn) error {
			data, err := io.ReadAll(conn)
			if err == nil {
				ss.Put(path.Base(arg), data)
			}
			return err
		})
	case "QUIT":
		return ss.reply("221 Goodbye.")
	}
	return ss.reply("502 %s is not implemented.", verb)
}

// listen executes PASV and EPSV.
func (ss *session) listen(ctx context.Context, verb, arg string) error {
	local := localAddr(ss.conn).Addr()
	switch {
	case verb == "EPSV" && strings.EqualFold(arg, "ALL"):
		ss.extendedOnly = true
		return ss.reply("200 EPSV it is.")
	case verb == "PASV" && ss.extendedOnly:
		return ss.reply("503 Only EPSV after EPSV ALL.")
	case verb == "PASV" && !local.Is4():
		return ss.reply("425 PASV knows no IPv6.")
	}
	ss.reset()
	l, err := ss.listenPassive(ctx, local)
	if err != nil {
		return ss.reply("425 %v.", err)
	}
	ss.passive = l.(*net.TCPListener)
	time.Sleep(ss.PassiveDelay)
	endpoint := unmap(l.Addr())
	if verb == "EPSV" {
		return ss.reply("229 Entering Extended Passive Mode (|||%d|).", endpoint.Port())
	}
	if ss.PassiveAddr.IsValid() {
		endpoint = netip.AddrPortFrom(ss.PassiveAddr, endpoint.Port())
	}
	return ss.reply("227 Entering Passive Mode (%s).", ftpparse.R227.AppendEndpoint(nil, endpoint))
}

// listenPassive listens on a free port of the passive range.
func (ss *session) listenPassive(ctx context.Context, local netip.Addr) (net.Listener, error) {
	first, last := ss.PassivePorts[0], ss.PassivePorts[1]
	n := int(last) - int(first) + 1
	start := rand.IntN(n)
	var err error
	for i := range n {
		port := first + uint16((start+i)%n)
		var l net.Listener
		if l, err = ss.Network.ListenTCP(ctx, netip.AddrPortFrom(local, port)); err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, err
}

// port executes PORT and EPRT.
func (ss *session) port(ctx context.Context, verb, arg string) error {
	if ss.extendedOnly {
		return ss.reply("503 Only EPSV after EPSV ALL.")
	}
	parse := parseHostPort
	if verb == "EPRT" {
		parse = parseExtended
	}
	endpoint, err := parse(arg)
	if err != nil {
		return ss.reply("501 %v.", err)
	}
	// RFC 2577 section 3: no connections to third parties.
	if endpoint.Addr() != remoteAddr(ss.conn).Addr() || endpoint.Port() < 1024 {
		return ss.reply("500 Illegal %s command.", verb)
	}
	ss.reset()
	ss.active = endpoint
	if ss.EagerConnect {
		if ss.opened, err = ss.open(ctx); err != nil {
			return ss.reply("425 %v.", err)
		}
	}
	return ss.reply("200 %s command successful.", verb)
}

// open opens the data connection in the announced way.
func (ss *session) open(ctx context.Context) (net.Conn, error) {
	timeout := ss.DataTimeout
	if timeout == 0 {
		timeout = DefaultDataTimeout
	}
	switch {
	case ss.opened != nil:
		conn := ss.opened
		ss.opened = nil
		return conn, nil
	case ss.passive != nil:
		l := ss.passive
		if err := l.SetDeadline(time.Now().Add(timeout)); err != nil {
			return nil, err
		}
		defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })()
		return l.Accept()
	case ss.active.IsValid():
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		local := netip.AddrPortFrom(localAddr(ss.conn).Addr(), ActivePort)
		return ss.Network.DialTCP(ctx, local, ss.active)
	}
	return nil, errors.New("use PORT, EPRT, PASV or EPSV first")
}

func (ss *session) send(ctx context.Context, data []byte) error {
	return ss.transfer(ctx, func(conn net.Conn) error {
		_, err := conn.Write(data)
		return err
	})
}

// transfer calls f with a data connection, between the two replies of the command.
func (ss *session) transfer(ctx context.Context, f func(net.Conn) error) error {
	defer ss.reset()
	conn, err := ss.open(ctx)
	if err != nil {
		return ss.reply("425 %v.", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := ss.reply("150 Here it comes."); err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := errors.Join(f(conn), conn.Close()); err != nil {
		return ss.reply("426 Transfer aborted.")
	}
	return ss.reply("226 Transfer complete.")
}
