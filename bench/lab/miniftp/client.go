package miniftp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	"ftpctd/ftpparse"
)

// Client is a control connection. It is not safe for concurrent use. After a
// context has ended during a call it is unusable. Errors are of type *OpError.
type Client struct {
	// DataTimeout is how long the client waits for a data connection to open.
	// Dial sets it to DefaultDataTimeout.
	DataTimeout time.Duration

	// GiveUp, unless nil, ends the wait for a data connection when it is closed.
	GiveUp <-chan struct{}

	// ActivePort is the port announced by PORT and EPRT; with 0 the kernel
	// chooses one. A port serves one download per minute: the server closes first
	// and keeps the connection in TIME_WAIT.
	ActivePort uint16

	// ByteWise makes the client send its commands in one-byte segments.
	ByteWise bool

	network Network
	conn    net.Conn
	replies *textproto.Reader
}

// DefaultDataTimeout is the default DataTimeout of client and server.
const DefaultDataTimeout = 5 * time.Second

// Dial connects to a server and waits for its greeting.
func Dial(ctx context.Context, n Network, server netip.AddrPort) (*Client, error) {
	conn, err := n.DialTCP(ctx, netip.AddrPort{}, server)
	if err != nil {
		return nil, opError("connect", err)
	}
	c := &Client{
		DataTimeout: DefaultDataTimeout,
		network:     n,
		conn:        conn,
		replies:     textproto.NewReader(bufio.NewReader(conn)),
	}
	err = c.during(ctx, func() error {
		_, _, err := c.replies.ReadResponse(2)
		return err
	})
	if err != nil {
		return nil, opError("greeting", errors.Join(err, conn.Close()))
	}
	return c, nil
}

// Login logs in.
func (c *Client) Login(ctx context.Context, user, password string) error {
	err := c.during(ctx, func() error {
		_, _, err := c.command(3, "USER "+user)
		if err != nil {
			return err
		}
		if _, _, err = c.command(2, "PASS "+password); err != nil {
			return err
		}
		_, _, err = c.command(2, "TYPE I")
		return err
	})
	return opError("login as "+user, err)
}

// Command sends a line and returns the server's reply. Expect is the code of the
// reply or its first digits, as in textproto.Reader.ReadResponse. Another reply
// is an error that wraps a *textproto.Error.
func (c *Client) Command(ctx context.Context, expect int, line string) (message string, err error) {
	err = c.during(ctx, func() error {
		_, message, err = c.command(expect, line)
		return err
	})
	return message, opError(line, err)
}

// Retr downloads a file.
func (c *Client) Retr(ctx context.Context, via ftpparse.Via, name string) ([]byte, error) {
	var data []byte
	err := c.transfer(ctx, via, "RETR "+name, func(conn net.Conn) (err error) {
		data, err = io.ReadAll(conn)
		return err
	})
	return data, err
}

// Stor uploads a file.
func (c *Client) Stor(ctx context.Context, via ftpparse.Via, name string, data []byte) error {
	return c.transfer(ctx, via, "STOR "+name, func(conn net.Conn) error {
		_, err := conn.Write(data)
		return err
	})
}

// List returns the names of the server's files.
func (c *Client) List(ctx context.Context, via ftpparse.Via) ([]string, error) {
	var names []string
	err := c.transfer(ctx, via, "NLST", func(conn net.Conn) error {
		list, err := io.ReadAll(conn)
		names = strings.Fields(string(list))
		return err
	})
	return names, err
}

// Quit sends QUIT and closes the control connection.
func (c *Client) Quit(ctx context.Context) error {
	err := c.during(ctx, func() error {
		_, _, err := c.command(2, "QUIT")
		return err
	})
	return opError("QUIT", errors.Join(err, c.conn.Close()))
}

// Close closes the control connection without QUIT. It can be called after Quit.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return opError("close", err)
	}
	return nil
}

// during calls f. When ctx ends, f's use of the control connection fails.
func (c *Client) during(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := f()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

func (c *Client) command(expect int, line string) (code int, message string, err error) {
	if err := write(c.conn, line, c.ByteWise); err != nil {
		return 0, "", err
	}
	return c.replies.ReadResponse(expect)
}

// transfer executes a command that needs a data connection.
func (c *Client) transfer(ctx context.Context, via ftpparse.Via, command string, f func(net.Conn) error) error {
	err := c.during(ctx, func() error {
		open := c.openPassive
		if via.Active() {
			open = c.openActive
		}
		conn, err := open(ctx, via, command)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err = f(conn)
		if stop() {
			err = errors.Join(err, conn.Close())
		}
		_, _, replyErr := c.replies.ReadResponse(2)
		return errors.Join(err, replyErr)
	})
	return opError(command+" via "+via.String(), err)
}

// openPassive opens the data connection of a command to the endpoint that the server
// announces.
func (c *Client) openPassive(ctx context.Context, via ftpparse.Via, command string) (net.Conn, error) {
	addr, err := c.askPassive(via)
	if err != nil {
		return nil, err
	}
	dialCtx, cancel := context.WithTimeout(ctx, c.DataTimeout)
	defer cancel()
	defer c.onGiveUp(cancel)()
	conn, err := c.network.DialTCP(dialCtx, netip.AddrPort{}, addr)
	if err != nil {
		return nil, noDataConnection(err)
	}
	if _, _, err := c.command(1, command); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// askPassive sends PASV or EPSV and returns the endpoint of the reply.
func (c *Client) askPassive(via ftpparse.Via) (netip.AddrPort, error) {
	var code int
	var command string
	switch via {
	case ftpparse.R227:
		code, command = 227, "PASV"
	case ftpparse.R229:
		code, command = 229, "EPSV"
	default:
		return netip.AddrPort{}, fmt.Errorf("no command for a %s: %w", via, errors.ErrUnsupported)
	}
	_, message, err := c.command(code, command)
	if err != nil {
		return netip.AddrPort{}, err
	}
	s, ok := between(message, "(", ")")
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("no endpoint in the reply %d %s", code, message)
	}
	if via == ftpparse.R227 {
		return parseHostPort(s)
	}
	ap, err := parseExtended(s)
	return netip.AddrPortFrom(remoteAddr(c.conn).Addr(), ap.Port()), err
}

// openActive announces an endpoint and accepts the data connection that the server
// opens to it for a command.
func (c *Client) openActive(ctx context.Context, via ftpparse.Via, command string) (_ net.Conn, err error) {
	l, err := c.network.ListenTCP(ctx, netip.AddrPortFrom(localAddr(c.conn).Addr(), c.ActivePort))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := c.announce(via, unmap(l.Addr())); err != nil {
		return nil, err
	}
	if err := write(c.conn, command, c.ByteWise); err != nil {
		return nil, err
	}

	// The reply and the connection arrive in any order. A negative reply ends the
	// wait for the connection.
	tcp := l.(*net.TCPListener)
	if err := tcp.SetDeadline(time.Now().Add(c.DataTimeout)); err != nil {
		return nil, err
	}
	endWait := func() { _ = tcp.SetDeadline(time.Unix(1, 0)) }
	defer c.onGiveUp(endWait)()
	replied := make(chan error, 1)
	go func() {
		_, _, err := c.replies.ReadResponse(1)
		if err != nil {
			endWait()
		}
		replied <- err
	}()
	conn, acceptErr := l.Accept()
	replyErr := <-replied
	switch {
	case acceptErr == nil && replyErr == nil:
		return conn, nil
	case acceptErr == nil:
		return nil, errors.Join(replyErr, conn.Close())
	case replyErr == nil:
		// After the 1xx reply the connection did not arrive: the negative reply
		// is still to come.
		_, _, replyErr = c.replies.ReadResponse(2)
		return nil, noDataConnection(errors.Join(acceptErr, replyErr))
	default:
		return nil, replyErr
	}
}

// onGiveUp calls f when GiveUp is closed, unless stop is called before.
func (c *Client) onGiveUp(f func()) (stop func()) {
	stopped := make(chan struct{})
	giveUp := c.GiveUp // nil blocks forever
	go func() {
		select {
		case <-giveUp:
			f()
		case <-stopped:
		}
	}()
	return func() { close(stopped) }
}

// announce sends PORT or EPRT.
func (c *Client) announce(via ftpparse.Via, endpoint netip.AddrPort) error {
	if via != ftpparse.EPRT && (via != ftpparse.PORT || !endpoint.Addr().Is4()) {
		return fmt.Errorf("%s cannot name %s: %w", via, endpoint, errors.ErrUnsupported)
	}
	_, _, err := c.command(2, via.String()+" "+string(via.AppendEndpoint(nil, endpoint)))
	return err
}
