package miniftp_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/textproto"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

func TestTransfer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		server func(*miniftp.Server)
		client func(*miniftp.Client)
	}{
		{"plain", nil, nil},
		{"replies byte by byte", func(s *miniftp.Server) { s.ByteWise = true }, nil},
		{"commands byte by byte", nil, func(c *miniftp.Client) { c.ByteWise = true }},
		{"server connects at once", func(s *miniftp.Server) { s.EagerConnect = true }, nil},
		{"slow passive reply", func(s *miniftp.Server) { s.PassiveDelay = 30 * time.Millisecond }, nil},
		{"greeting of many lines", func(s *miniftp.Server) { s.Greeting = "220-Hello\r\n227 (1,2,3,4,5,6)\r\n220 there" }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, lab.Config{})
			s := &miniftp.Server{}
			if tt.server != nil {
				tt.server(s)
			}
			labtest.Serve(t, l.Server, s)
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				t.Run(w.String(), func(t *testing.T) {
					c := labtest.Connect(ctx, t, l.Client, w.Server)
					if tt.client != nil {
						tt.client(c)
					}
					labtest.RoundTrip(ctx, t, c, s, w)
					if err := c.Quit(ctx); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// TestFirewall checks that data connections are blocked without a helper and pass with
// the kernel's, and that the counter counts data connections and nothing else.
func TestFirewall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		host func(*lab.Lab) *lab.Host
		// The hooks between client and server. Only in one of them a packet of a
		// data connection is not ESTABLISHED.
		hooks []lab.Hook
	}{
		{"router", func(l *lab.Lab) *lab.Host { return l.Router }, []lab.Hook{lab.Forward}},
		{"server", func(l *lab.Lab) *lab.Host { return l.Server }, []lab.Hook{lab.Input, lab.Output}},
		{"client", func(l *lab.Lab) *lab.Host { return l.Client }, []lab.Hook{lab.Input, lab.Output}},
	} {
		t.Run(tt.name+" blocked", func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, lab.Config{})
			// Client and server wait in vain, so briefly.
			const timeout = 300 * time.Millisecond
			s := &miniftp.Server{DataTimeout: timeout}
			labtest.Serve(t, l.Server, s)
			s.Put("file", labtest.Content(200_000))
			fw, err := tt.host(l).DropFirewall(tt.hooks...)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				t.Run(w.String(), func(t *testing.T) {
					before := labtest.Count(t, fw.Dropped)
					c := labtest.Connect(ctx, t, l.Client, w.Server)
					c.DataTimeout = timeout
					_, err := c.Retr(ctx, w.Via, "file")
					if !errors.Is(err, miniftp.ErrNoDataConnection) {
						t.Errorf("got %v, want %v", err, miniftp.ErrNoDataConnection)
					}
					if labtest.Count(t, fw.Dropped) == before {
						t.Error("no packet was dropped")
					}
					// The control connection still works.
					if _, err := c.Command(ctx, 200, "NOOP"); err != nil {
						t.Error(err)
					}
					if err := c.Quit(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			if n := labtest.Count(t, fw.Related); n != 0 {
				t.Errorf("%d related packets without a helper", n)
			}
		})
		t.Run(tt.name+" admitted", func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, lab.Config{})
			s := &miniftp.Server{}
			labtest.Serve(t, l.Server, s)
			fw, err := tt.host(l).DropFirewall(tt.hooks...)
			if err != nil {
				t.Fatal(err)
			}
			if err := fw.AssignHelper("ftp"); err != nil {
				labtest.Unmet(t, err.Error())
			}
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				t.Run(w.String(), func(t *testing.T) {
					before := labtest.Count(t, fw.Related)
					c := labtest.Connect(ctx, t, l.Client, w.Server)
					labtest.RoundTrip(ctx, t, c, s, w)
					if got := labtest.Count(t, fw.Related) - before; got != 2 {
						t.Errorf("%d related packets for 2 data connections", got)
					}
				})
			}
			if n := labtest.Count(t, fw.Dropped); n != 0 {
				t.Errorf("%d packets dropped", n)
			}
		})
	}
}

func TestOpenFirewall(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	fw, err := l.Router.OpenFirewall(lab.Forward)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		labtest.RoundTrip(ctx, t, labtest.Connect(ctx, t, l.Client, w.Server), s, w)
	}
	if n := labtest.Count(t, fw.Related); n != 0 {
		t.Errorf("%d related packets without a helper", n)
	}
	// None was dropped, but each reached the policy.
	if n := labtest.Count(t, fw.Dropped); n == 0 {
		t.Error("no packet was left to the policy")
	}
	t.Run("one per host", func(t *testing.T) {
		if _, err := l.Router.DropFirewall(lab.Forward); err == nil {
			t.Error("a second firewall was added")
		}
	})
	t.Run("no such helper", func(t *testing.T) {
		var opErr *lab.OpError
		if err := fw.AssignHelper("nonexistent"); !errors.As(err, &opErr) {
			t.Errorf("got %v, want an *OpError", err)
		}
	})
	t.Run("close", func(t *testing.T) {
		if err := fw.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := fw.Related(); err == nil {
			t.Error("a counter was read after Close")
		}
		if _, err := l.Router.DropFirewall(lab.Forward); err != nil {
			t.Errorf("no new firewall after Close: %v", err)
		}
	})
}

// TestEndpoints compares the lines on the wire with the two original examples of this
// project.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{
		ClientIPv4: netip.MustParseAddr("192.168.0.211"),
		ServerIPv4: netip.MustParseAddr("192.168.0.201"),
	})
	labtest.Serve(t, l.Server, &miniftp.Server{PassivePorts: [2]uint16{31240, 31240}})

	t.Run("passive", func(t *testing.T) {
		c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
		got, err := c.Command(ctx, 227, "PASV")
		if want := "Entering Passive Mode (192,168,0,201,122,8)."; err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		got, err = c.Command(ctx, 229, "EPSV")
		if want := "Entering Extended Passive Mode (|||31240|)."; err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
	for _, tt := range []struct {
		name, want string
		addr       func(*lab.Host) netip.Addr
		via        ftpparse.Via
	}{
		{"PORT", "PORT 192,168,0,211,154,208", (*lab.Host).IPv4, ftpparse.PORT},
		{"EPRT", "EPRT |1|192.168.0.211|39632|", (*lab.Host).IPv4, ftpparse.EPRT},
		{"EPRT ipv6", "EPRT |2|fd00:192:168::10|39632|", (*lab.Host).IPv6, ftpparse.EPRT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A server that records one command.
			ln, err := l.Server.ListenTCP(ctx, netip.AddrPortFrom(tt.addr(l.Server), 2121))
			if err != nil {
				t.Fatal(err)
			}
			heard := make(chan string, 1)
			go func() { heard <- refuse(ln) }()
			c, err := miniftp.Dial(ctx, l.Client, ln.Addr().(*net.TCPAddr).AddrPort())
			if err != nil {
				t.Fatal(err)
			}
			c.ActivePort = 39632
			_, err = c.Retr(ctx, tt.via, "file")
			var reply *textproto.Error
			if !errors.As(err, &reply) || reply.Code != 500 {
				t.Errorf("got %v, want the reply 500", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tt.want, <-heard); diff != "" {
				t.Errorf("the client's line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPassivePorts(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	labtest.Serve(t, l.Server, &miniftp.Server{PassivePorts: [2]uint16{30000, 30002}})
	held, err := l.Server.ListenTCP(ctx, netip.AddrPortFrom(l.Server.IPv4(), 30001))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()

	// Two ports are free, for as long as a client waits on each of them.
	seen := make(map[string]int)
	for range 2 {
		message, err := labtest.Connect(ctx, t, l.Client, l.Server.IPv4()).Command(ctx, 229, "EPSV")
		if err != nil {
			t.Fatal(err)
		}
		seen[message]++
	}
	want := map[string]int{
		"Entering Extended Passive Mode (|||30000|).": 1,
		"Entering Extended Passive Mode (|||30002|).": 1,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	_, err = labtest.Connect(ctx, t, l.Client, l.Server.IPv4()).Command(ctx, 229, "EPSV")
	if !errors.Is(err, miniftp.ErrNoDataConnection) {
		t.Errorf("got %v, want %v", err, miniftp.ErrNoDataConnection)
	}
}

// refuse serves one connection: it greets, replies 500 to one command, and returns that
// command.
func refuse(l net.Listener) string {
	conn, err := l.Accept()
	if err != nil {
		return err.Error()
	}
	c := textproto.NewConn(conn)
	defer func() { _ = c.Close() }()
	_ = c.PrintfLine("220 hello")
	line, err := c.ReadLine()
	if err != nil {
		return err.Error()
	}
	_ = c.PrintfLine("500 no")
	return line
}

func TestReplies(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{PassiveAddr: netip.MustParseAddr("198.51.100.1")}
	labtest.Serve(t, l.Server, s)
	s.Put("b", []byte("bb"))
	s.Put("a", []byte("a"))
	for _, tt := range []struct {
		name string
		addr netip.Addr
		send []string // the reply to the last one is checked
		want int
	}{
		{"unknown", l.Server.IPv4(), []string{"AUTH TLS"}, 502},
		{"size", l.Server.IPv4(), []string{"SIZE b"}, 213},
		{"size of nothing", l.Server.IPv4(), []string{"SIZE c"}, 550},
		{"directory", l.Server.IPv4(), []string{"PWD"}, 257},
		{"lower case", l.Server.IPv4(), []string{"noop"}, 200},
		{"no endpoint", l.Server.IPv4(), []string{"RETR a"}, 425},
		{"no such file", l.Server.IPv4(), []string{"PASV", "RETR c"}, 550},
		{"PASV over IPv6", l.Server.IPv6(), []string{"PASV"}, 425},
		{"EPSV ALL", l.Server.IPv4(), []string{"EPSV ALL"}, 200},
		{"EPSV after EPSV ALL", l.Server.IPv4(), []string{"EPSV ALL", "EPSV"}, 229},
		{"PASV after EPSV ALL", l.Server.IPv4(), []string{"EPSV ALL", "PASV"}, 503},
		{"PORT after EPSV ALL", l.Server.IPv4(), []string{"EPSV ALL", "PORT 192,168,0,10,200,1"}, 503},
		{"PORT", l.Server.IPv4(), []string{"PORT 192,168,0,10,200,1"}, 200},
		{"PORT to another host", l.Server.IPv4(), []string{"PORT 192,168,0,11,200,1"}, 500},
		{"PORT to a low port", l.Server.IPv4(), []string{"PORT 192,168,0,10,0,22"}, 500},
		{"PORT of five numbers", l.Server.IPv4(), []string{"PORT 192,168,0,10,200"}, 501},
		{"PORT of a big number", l.Server.IPv4(), []string{"PORT 192,168,0,10,256,1"}, 501},
		{"EPRT", l.Server.IPv6(), []string{"EPRT |2|fd00:192:168::10|5000|"}, 200},
		{"EPRT of the other family", l.Server.IPv6(), []string{"EPRT |1|fd00:192:168::10|5000|"}, 501},
		{"EPRT of no port", l.Server.IPv6(), []string{"EPRT |2|fd00:192:168::10||"}, 501},
		{"EPRT cut short", l.Server.IPv6(), []string{"EPRT |2|fd00:192:168::10|5000"}, 501},
		{"EPRT of no address", l.Server.IPv6(), []string{"EPRT |||5000|"}, 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := labtest.Connect(ctx, t, l.Client, tt.addr)
			last := len(tt.send) - 1
			for _, line := range tt.send[:last] {
				if _, err := c.Command(ctx, 2, line); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Command(ctx, tt.want, tt.send[last]); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("other address", func(t *testing.T) {
		c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
		got, err := c.Command(ctx, 227, "PASV")
		if want := "Entering Passive Mode (198,51,100,1,"; err != nil || len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("got %q, %v, want %q...", got, err, want)
		}
	})
	t.Run("list", func(t *testing.T) {
		c := labtest.Connect(ctx, t, l.Client, l.Server.IPv6())
		got, err := c.List(ctx, ftpparse.R229)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	})
	t.Run("line that cannot name IPv6", func(t *testing.T) {
		for _, via := range []ftpparse.Via{ftpparse.PORT, ftpparse.LPRT, ftpparse.R228} {
			c := labtest.Connect(ctx, t, l.Client, l.Server.IPv6())
			if _, err := c.Retr(ctx, via, "a"); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: got %v, want %v", via, err, errors.ErrUnsupported)
			}
		}
	})
	t.Run("refused file", func(t *testing.T) {
		for _, w := range miniftp.Ways(l.Server.Addrs()...) {
			if w.Via == ftpparse.R227 {
				continue // this server announces another host
			}
			c := labtest.Connect(ctx, t, l.Client, w.Server)
			// A client that waits for the data connection does not return.
			c.DataTimeout = time.Hour
			_, err := c.Retr(ctx, w.Via, "nonexistent")
			var reply *textproto.Error
			if !errors.As(err, &reply) || reply.Code != 550 || errors.Is(err, miniftp.ErrNoDataConnection) {
				t.Errorf("%s: got %v, want the reply 550", w, err)
			}
		}
	})
}

func TestContext(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	// Accepts connections and never greets.
	ln, err := l.Server.ListenTCP(labtest.Context(t), netip.AddrPortFrom(l.Server.IPv4(), 2121))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = miniftp.Dial(ctx, l.Client, ln.Addr().(*net.TCPAddr).AddrPort())
	var opErr *miniftp.OpError
	if !errors.As(err, &opErr) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an *OpError with %v", err, context.DeadlineExceeded)
	}
}
