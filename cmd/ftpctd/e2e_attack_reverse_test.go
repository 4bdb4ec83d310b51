package main_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
)

// TestAttackReversedWeb fetches a page of a web server inside from a control port: who
// serves must not be taken for the client.
func TestAttackReversedWeb(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.0\r\n\r\n"
	page := func(secret netip.AddrPort) string {
		return "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + announce(secret) + "\r\nbye\r\n"
	}
	for _, tt := range []struct {
		name    string
		from    uint16
		ipv6    bool
		request string
		page    func(secret netip.AddrPort) string
	}{
		{name: "line in a page", from: 21, request: get, page: page},
		{name: "line in a page, IPv6", from: 21, ipv6: true, request: get, page: page},
		{name: "another control port", from: secondPort, request: get, page: page},
		// HTTP/0.9, or any service that echoes: the whole answer is the attacker's.
		{name: "whole session", from: 21, request: "220 hello\r\n331 which password?\r\n230 logged in\r\n", page: body},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				ctx := testContext(t)
				s := newStage(t)
				s.openPort(t, 80)
				start(t, s.Router, twoPorts+config)
				server, client := s.inside.IPv4(), s.outside.IPv4()
				if tt.ipv6 {
					server, client = s.inside.IPv6(), s.outside.IPv6()
				}
				secret := netip.AddrPortFrom(server, secretPort)
				web := netip.AddrPortFrom(server, 80)
				says(ctx, t, s.inside, web, tt.page(secret))
				conn, err := s.outside.DialTCP(ctx, netip.AddrPortFrom(client, tt.from), web)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if _, err := io.WriteString(conn, tt.request); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(io.LimitReader(conn, int64(len(tt.page(secret))))); err != nil {
					t.Fatal(err)
				}
				s.expectClosed(t, client, secret)
			})
		})
	}
}

// says serves an endpoint that answers the first bytes of a client with a text, and then
// keeps reading.
func says(ctx context.Context, t *testing.T, h *lab.Host, local netip.AddrPort, text string) {
	t.Helper()
	l := labtest.Listen(ctx, t, h, local)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				if _, err := conn.Read(make([]byte, 1000)); err == nil {
					_, _ = io.WriteString(conn, text)
					_, _ = io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
}

// TestAttackReversedTransfer is an honest session whose client opens its passive data
// connection from a control port. What it downloads must not be read.
func TestAttackReversedTransfer(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, config string) {
		ctx := testContext(t)
		s := newStage(t)
		secret := netip.AddrPortFrom(s.inside.IPv4(), secretPort)
		server := &miniftp.Server{}
		server.Put("file", []byte("NOOP\r\n"+announce(secret)+"\r\n"+body(secret)))
		labtest.Serve(t, s.inside, server)
		start(t, s.Router, config)
		network := &fromPort{Host: s.outside, port: lab.ControlPort}
		c := labtest.Connect(ctx, t, network, s.inside.IPv4())
		named := mustPASV(ctx, t, c)
		data := dialUnlessDropped(ctx, t, s.firewall, network, netip.AddrPort{}, named)
		if data == nil {
			return // not even that connection is admitted
		}
		defer func() { _ = data.Close() }()
		if _, err := c.Command(ctx, 150, "RETR file"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(data); err != nil || !strings.Contains(string(b), announce(secret)) {
			t.Fatalf("downloaded %q, %v", b, err)
		}
		s.expectClosed(t, s.outside.IPv4(), secret)
	})
}

// fromPort is a host that opens data connections from a port.
type fromPort struct {
	*lab.Host
	port uint16
}

// DialTCP implements miniftp.Network.
func (f *fromPort) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	if remote.Port() != lab.ControlPort {
		local = netip.AddrPortFrom(f.IPv4(), f.port)
	}
	return f.Host.DialTCP(ctx, local, remote)
}

// TestAttackDataToControlPort makes an FTP server inside open an active data connection
// to a control port of the attacker's. The file is a session, and arrives one line at a
// time: the attacker's window is closed until the attacker has greeted and replied.
func TestAttackDataToControlPort(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		admits bool   // the firewall lets anybody inside connect to the second port
		from   uint16 // the port of the server's end
	}{
		{name: "firewall admits port 21", from: 20},
		{name: "firewall admits both ports", admits: true, from: 20},
		{name: "firewall admits both ports, not from port 20", admits: true, from: 40000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				ctx := testContext(t)
				s := newStage(t)
				if tt.admits {
					s.openPort(t, secondPort)
				}
				start(t, s.Router, twoPorts+config)
				there := netip.AddrPortFrom(attackerIPv4, secondPort)
				k := s.talk(ctx, netip.AddrPortFrom(attackerIPv4, clientPort), netip.AddrPortFrom(victimIPv4, lab.ControlPort))
				k.handshake(t)
				k.login(t)
				k.dialogue(t, announce(there), "200 OK")
				k.dialogue(t, "RETR file", "150 here it comes")

				data := s.talk(ctx, netip.AddrPortFrom(victimIPv4, tt.from), there)
				before := mustRead(t, s.firewall.Dropped)
				syn := data.segment(data.client, lab.SYN, "")
				data.send(t, data.client, syn)
				passed := false
				labtest.Eventually(t, "the data connection comes or is dropped", func() bool {
					_, passed = s.atOut.Poll(func(got lab.Segment) bool { return got.Src == syn.Src && got.Dst == there })
					return passed || mustRead(t, s.firewall.Dropped) > before
				})
				if !passed {
					return
				}
				data.client.next = syn.Next()
				data.flags(t, data.server, lab.SYN|lab.ACK)
				data.flags(t, data.client, lab.ACK)
				secret := netip.AddrPortFrom(victimIPv4, secretPort)
				data.masquerade(t, secret)
				s.expectClosed(t, attackerIPv4, secret)
			})
		})
	}
}

func waitFor(ctx context.Context, t *testing.T, from *lab.Sniffer, what string, match func(lab.Segment) bool) lab.Segment {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, labtest.Patience)
	defer cancel()
	got, err := from.Wait(ctx, match)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return got
}

// TestControlPortAnnounced refuses an endpoint whose port is a control port: what
// connects to it would be read.
func TestControlPortAnnounced(t *testing.T) {
	t.Parallel()
	const other = 39633
	for _, tt := range []struct {
		name, line, reply string
		via               string
	}{
		{name: "PORT", line: "PORT 192,168,0,10,8,73", reply: "200 OK", via: "PORT"},
		{name: "EPRT", line: "EPRT |1|192.168.0.10|2121|", reply: "200 OK", via: "EPRT"},
		{name: "227", line: "PASV", reply: "227 here (203,0,113,10,8,73)", via: "227"},
		{name: "229", line: "EPSV", reply: "229 here (|||2121|)", via: "229"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				ctx := testContext(t)
				s := newStage(t)
				verb, _, _ := strings.Cut(tt.line, " ")
				script{verb: tt.reply}.serve(ctx, t, s.Server)
				d := start(t, s.Router, twoPorts+config)
				c := login(ctx, t, s.Lab)
				c.command(t, 0, tt.line)
				from, to := s.Server.IPv4(), netip.AddrPortFrom(s.Client.IPv4(), secondPort)
				if verb == "PASV" || verb == "EPSV" {
					from, to = s.Client.IPv4(), netip.AddrPortFrom(s.Server.IPv4(), secondPort)
				}
				s.expectClosed(t, from, to)
				d.expectLog(t, "via="+tt.via, "reason=control-port")
				// The session goes on to be served.
				c.command(t, 0, fmt.Sprintf("PORT 192,168,0,10,%d,%d", other>>8, other&0xff))
				if !s.reachable(t, s.Server.IPv4(), netip.AddrPortFrom(s.Client.IPv4(), other)) {
					t.Error("the next endpoint is not reachable")
				}
			})
		})
	}
}
