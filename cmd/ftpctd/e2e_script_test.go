package main_test

import (
	"context"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// script is an FTP server that sends the given reply to each verb.
type script map[string]string

const (
	greeting = "greeting" // not a verb
	silent   = "-"        // no reply
)

// usual are the replies to verbs that a script lacks. The reply to any other verb is
// 200.
var usual = script{
	greeting: "220 hello",
	"USER":   "331 which password?",
	"PASS":   "230 logged in",
	"QUIT":   "221 goodbye",
}

func (s script) reply(verb string) string {
	for _, from := range []script{s, usual} {
		if reply, ok := from[verb]; ok {
			return reply
		}
	}
	return "200 OK"
}

// serve plays the script on port 21 of a host, over IPv4, until the end of the
// test.
func (s script) serve(ctx context.Context, t *testing.T, h *lab.Host) {
	t.Helper()
	l := labtest.Listen(ctx, t, h, netip.AddrPortFrom(h.IPv4(), lab.ControlPort))
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				s.play(conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		sessions.Wait()
	})
}

func (s script) play(conn net.Conn) {
	c := textproto.NewConn(conn)
	if s.say(c, greeting) != nil {
		return
	}
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(line, " ")
		if s.say(c, verb) != nil || verb == "QUIT" {
			return
		}
	}
}

func (s script) say(c *textproto.Conn, verb string) error {
	reply := s.reply(verb)
	if reply == silent {
		return nil
	}
	return c.PrintfLine("%s", reply)
}

// control is a control connection that a test speaks on.
type control struct {
	*textproto.Conn
	tcp  *net.TCPConn
	addr netip.AddrPort // of the client
}

// connect opens a control connection, which is closed at the end of the test. It does
// not wait for the greeting.
func connect(ctx context.Context, t *testing.T, l *lab.Lab) *control {
	t.Helper()
	return connectFrom(ctx, t, l, netip.AddrPort{})
}

// connectFrom is connect from an address and port of the client.
func connectFrom(ctx context.Context, t *testing.T, l *lab.Lab, local netip.AddrPort) *control {
	t.Helper()
	conn, err := l.Client.DialTCP(ctx, local, netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort))
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // again, perhaps
	return &control{textproto.NewConn(conn), conn.(*net.TCPConn), conn.LocalAddr().(*net.TCPAddr).AddrPort()}
}

// login opens a control connection and logs in.
func login(ctx context.Context, t *testing.T, l *lab.Lab) *control {
	t.Helper()
	c := connect(ctx, t, l)
	c.expectReply(t, 220)
	c.command(t, 331, "USER anonymous")
	c.command(t, 230, "PASS lab@example.com")
	return c
}

// command sends a line and waits for its reply, with any code if that is 0.
func (c *control) command(t *testing.T, code int, line string) {
	t.Helper()
	if err := c.PrintfLine("%s", line); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	c.expectReply(t, code)
}

// expectReply waits for a reply with a code, or with any code if that is 0.
func (c *control) expectReply(t *testing.T, code int) {
	t.Helper()
	if _, _, err := c.ReadResponse(code); err != nil {
		t.Fatalf("waiting for a reply with %d: %v", code, err)
	}
}
