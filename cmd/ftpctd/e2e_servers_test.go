package main_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/bench/lab/realftp"
	"ftpctd/ftpparse"
)

// Servers that people use, with the settings that make firewalls stumble.

// atHooks runs a subtest for each server, with the firewall and the daemon on the router
// and on the server's host.
func atHooks(t *testing.T, servers []realftp.Server, f func(*testing.T, realftp.Server, *lab.Lab, place)) {
	t.Parallel()
	for _, s := range servers {
		for _, name := range []string{"router", "server"} {
			t.Run(s.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				l := labtest.New(t, lab.Config{})
				at := place{l.Router, []lab.Hook{lab.Forward}}
				if name == "server" {
					at = place{l.Server, []lab.Hook{lab.Input, lab.Output}}
				}
				f(t, s, l, at)
			})
		}
	}
}

// place is where a firewall is installed.
type place struct {
	host  *lab.Host
	hooks []lab.Hook
}

// except leaves a server out.
func except(name string) []realftp.Server {
	var rest []realftp.Server
	for _, s := range realftp.Servers() {
		if s.Name != name {
			rest = append(rest, s)
		}
	}
	return rest
}

// serveAs runs a server with settings until the end of the test, and puts a
// file called down on it.
func serveAs(ctx context.Context, t *testing.T, h *lab.Host, s realftp.Server, c realftp.ServerConfig) *realftp.Daemon {
	t.Helper()
	c.PassivePorts = passivePorts
	server := labtest.ServeReal(ctx, t, h, s, c)
	if err := server.Put("down", labtest.Content(smallFile)); err != nil {
		t.Fatal(err)
	}
	return server
}

// down is the path of serveAs's file for clients.
const down = realftp.Pub + "/down"

// loginReal returns a client of a real server, logged in.
func loginReal(ctx context.Context, t *testing.T, n miniftp.Network, server netip.Addr) *miniftp.Client {
	t.Helper()
	c := labtest.Dial(ctx, t, n, netip.AddrPortFrom(server, lab.ControlPort))
	if err := c.Login(ctx, realftp.User, realftp.Password); err != nil {
		t.Fatal(err)
	}
	return c
}

// mustRetrieve downloads a file from a real server.
func mustRetrieve(ctx context.Context, t *testing.T, c *miniftp.Client, via ftpparse.Via) {
	t.Helper()
	got, err := c.Retr(ctx, via, down)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, labtest.Content(smallFile)) {
		t.Errorf("downloaded %d bytes that differ from the file's %d", len(got), smallFile)
	}
}

// runClient downloads serveAs's file with a client program: one data connection.
func runClient(ctx context.Context, t *testing.T, l *lab.Lab, fw *lab.Firewall, c realftp.Client, transfer realftp.Transfer) {
	t.Helper()
	transfer.Remote = down
	transfer.Local = filepath.Join(t.TempDir(), "file")
	before := mustRead(t, fw.Related)
	if err := c.Run(ctx, l.Client, transfer); err != nil {
		labtest.FailUnlessMissing(t, err)
	}
	if got, err := os.ReadFile(transfer.Local); err != nil || !bytes.Equal(got, labtest.Content(smallFile)) {
		t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, smallFile)
	}
	if got := mustRead(t, fw.Related) - before; got != 1 {
		t.Errorf("%d related packets for 1 data connection", got)
	}
}

// expectLogTimes checks that the daemon logs exactly n lines that contain all the words.
func expectLogTimes(t *testing.T, d *daemon, n int, words ...string) {
	t.Helper()
	labtest.Eventually(t, fmt.Sprintf("the daemon logs %q %d times", words, n), func() bool { return d.log.count(words...) >= n })
	if got := d.log.count(words...); got != n {
		t.Errorf("the daemon logged %q %d times, want %d", words, got, n)
	}
}

// TestAnnouncedAddress is a server behind NAT that announces its private
// address, or one of a setting that is out of date. Clients ignore it and
// connect to the server.
func TestAnnouncedAddress(t *testing.T) {
	announced := netip.MustParseAddr("10.9.8.7")
	atHooks(t, realftp.Servers(), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		serveAs(ctx, t, l.Server, s, realftp.ServerConfig{PassiveAddr: announced})
		fw := installDropFirewall(t, at.host, at.hooks...)

		t.Run("peer", func(t *testing.T) {
			d := start(t, at.host, "")
			for _, c := range realftp.Clients() {
				if c.Name == "tnftp" {
					continue // does as it is told
				}
				t.Run(c.Name, func(t *testing.T) {
					runClient(ctx, t, l, fw, c, realftp.Transfer{Server: l.Server.IPv4(), Via: ftpparse.R227})
				})
			}
			if n := d.log.count("data connection rejected"); n != 0 {
				t.Errorf("%d data connections rejected", n)
			}
		})
		t.Run("strict", func(t *testing.T) {
			d := start(t, at.host, "[passive]\naddress = \"strict\"")
			c := loginReal(ctx, t, l.Client, l.Server.IPv4())
			endpoint := mustPASV(ctx, t, c)
			if endpoint.Addr() != announced {
				t.Fatalf("the server announced %s, want %s", endpoint, announced)
			}
			related := mustRead(t, fw.Related)
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, netip.AddrPortFrom(l.Server.IPv4(), endpoint.Port()))
			if got := mustRead(t, fw.Related) - related; got != 0 {
				t.Errorf("%d related packets", got)
			}
			d.expectLog(t, "data connection rejected", "via=227", "dst="+endpoint.String(), "reason=foreign-address")
			checkAlive(ctx, t, c)
			// The address is all that is wrong with it: 229 names none.
			mustRetrieve(ctx, t, c, ftpparse.R229)
		})
	})
}

// TestEPSVOnly is a server that refuses PASV, and a client that renounces it.
func TestEPSVOnly(t *testing.T) {
	atHooks(t, except("Pure-FTPd"), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		serveAs(ctx, t, l.Server, s, realftp.ServerConfig{EPSVOnly: true})
		fw := installDropFirewall(t, at.host, at.hooks...)
		d := start(t, at.host, "")
		for _, w := range miniftp.Ways(l.Server.Addrs()...) {
			if w.Via != ftpparse.R229 {
				continue
			}
			t.Run(w.String(), func(t *testing.T) {
				c := loginReal(ctx, t, l.Client, w.Server)
				if _, err := c.Command(ctx, 5, "PASV"); err != nil {
					t.Fatalf("PASV is to be refused: %v", err)
				}
				before := mustRead(t, fw.Related)
				mustRetrieve(ctx, t, c, w.Via)
				if _, err := c.Command(ctx, 2, "EPSV ALL"); err != nil {
					t.Fatal(err)
				}
				mustRetrieve(ctx, t, c, w.Via)
				if got := mustRead(t, fw.Related) - before; got != 2 {
					t.Errorf("%d related packets for 2 data connections", got)
				}
			})
		}
		expectLogTimes(t, d, 4, "data connection expected", "via=229")
	})
}

// TestPASVOverIPv6 sends PASV where its reply has no room for the address. What
// servers make of that differs; what they announce with EPSV counts afterwards.
func TestPASVOverIPv6(t *testing.T) {
	answers := map[string]struct {
		reply string
		log   []string // what the daemon makes of it
	}{
		// It means its own address.
		"vsftpd": {"Entering Passive Mode (0,0,0,0,", []string{"data connection expected", "via=227"}},
		// The last group of its address, and then the port: (10,p1,p2).
		"ProFTPD":   {"Entering Passive Mode (10,", []string{"data connection rejected", "via=227", "reason=malformed"}},
		"Pure-FTPd": {"You cannot use PASV on IPv6 connections.", nil},
	}
	atHooks(t, realftp.Servers(), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		serveAs(ctx, t, l.Server, s, realftp.ServerConfig{})
		fw := installDropFirewall(t, at.host, at.hooks...)
		d := start(t, at.host, "")
		c := loginReal(ctx, t, l.Client, l.Server.IPv6())
		want := answers[s.Name]
		reply, err := c.Command(ctx, 0, "PASV")
		if err != nil || !strings.HasPrefix(reply, want.reply) {
			t.Fatalf("PASV is answered %q, %v, want %q", reply, err, want.reply)
		}
		if want.log != nil {
			d.expectLog(t, append(want.log, "server="+netip.AddrPortFrom(l.Server.IPv6(), lab.ControlPort).String())...)
		} else if n := d.log.count("via=227"); n != 0 {
			t.Errorf("the daemon says something of a 227 that was not sent")
		}
		connections := uint64(1)
		if s.Name == "vsftpd" {
			endpoint := netip.AddrPortFrom(l.Server.IPv6(), mustPASV(ctx, t, c).Port())
			expectConnect(ctx, t, l.Client, netip.AddrPort{}, endpoint)
			connections++
		}
		mustRetrieve(ctx, t, c, ftpparse.R229)
		if got := mustRead(t, fw.Related); got != connections {
			t.Errorf("%d related packets for %d data connections", got, connections)
		}
	})
}

// TestAuthTLS is explicit FTPS (RFC 4217). Nobody can read what is announced in
// TLS, so that the data connection is blocked; the control connection is not
// disturbed. Back in clear text after CCC, announcements count again.
func TestAuthTLS(t *testing.T) {
	versions := map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}
	atHooks(t, realftp.Servers(), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		serveAs(ctx, t, l.Server, s, realftp.ServerConfig{TLS: true})
		fw := installDropFirewall(t, at.host, at.hooks...)
		d := start(t, at.host, "")
		for name, version := range versions {
			t.Run(name, func(t *testing.T) {
				wire := &tlsNetwork{Host: l.Client, version: version}
				c := wire.login(ctx, t, l.Server.IPv4())
				client := "client=" + wire.control.LocalAddr().String()
				related := mustRead(t, fw.Related)
				for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229} {
					expectTransferBlocked(ctx, t, fw.Dropped, c, via, down)
				}
				expectLogTimes(t, d, 1, "switched to TLS", client)
				if s.Name == "vsftpd" {
					if _, err := c.Command(ctx, 500, "CCC"); err != nil {
						t.Errorf("CCC, which vsftpd does not know: %v", err)
					}
					expectTransferBlocked(ctx, t, fw.Dropped, c, ftpparse.R227, down)
				} else {
					if _, err := c.Command(ctx, 200, "CCC"); err != nil {
						t.Fatal(err)
					}
					if err := wire.control.clear(); err != nil {
						t.Fatal(err)
					}
					for _, via := range []ftpparse.Via{ftpparse.PORT, ftpparse.EPRT, ftpparse.R227, ftpparse.R229} {
						mustRetrieve(ctx, t, c, via)
						related++
					}
					expectLogTimes(t, d, 4, "data connection expected", client)
				}
				if got := mustRead(t, fw.Related); got != related {
					t.Errorf("%d related packets, want %d", got, related)
				}
			})
		}
	})
}

// TestCCC is TestAuthTLS with a client that people use.
func TestCCC(t *testing.T) {
	atHooks(t, except("vsftpd"), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		serveAs(ctx, t, l.Server, s, realftp.ServerConfig{TLS: true})
		fw := installDropFirewall(t, at.host, at.hooks...)
		d := start(t, at.host, "")
		sessions := 0
		for _, c := range realftp.Clients() {
			if !c.SupportsCCC() {
				continue
			}
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				for _, p := range []realftp.Protection{realftp.Control, realftp.Private} {
					if !c.Supports(w.Via, w.Server) || w.Via.Active() && p == realftp.Private {
						continue
					}
					t.Run(c.Name+" "+w.String()+" "+p.String(), func(t *testing.T) {
						runClient(testContext(t), t, l, fw, c, realftp.Transfer{Server: w.Server, Via: w.Via, Protection: p, CCC: true})
						sessions++
						expectLogTimes(t, d, sessions, "switched to TLS")
					})
				}
			}
		}
		if n := mustRead(t, fw.Dropped); n != 0 {
			t.Errorf("%d packets dropped", n)
		}
	})
}

// TestOneByteAPacket is a client whose every byte is a segment of its own.
func TestOneByteAPacket(t *testing.T) {
	atHooks(t, realftp.Servers(), func(t *testing.T, s realftp.Server, l *lab.Lab, at place) {
		ctx := testContext(t)
		server := serveAs(ctx, t, l.Server, s, realftp.ServerConfig{})
		fw := installDropFirewall(t, at.host, at.hooks...)
		start(t, at.host, "")
		for i, w := range miniftp.Ways(l.Server.Addrs()...) {
			t.Run(w.String(), func(t *testing.T) {
				var n miniftp.Network = l.Client
				if s.Name == "ProFTPD" {
					n = joinedEnds{l.Client}
				}
				c := labtest.Dial(ctx, t, n, netip.AddrPortFrom(w.Server, lab.ControlPort))
				c.ByteWise = true
				if err := c.Login(ctx, realftp.User, realftp.Password); err != nil {
					t.Fatal(err)
				}
				before := mustRead(t, fw.Related)
				mustRetrieve(ctx, t, c, w.Via)
				up := "up" + strconv.Itoa(i)
				if err := c.Stor(ctx, w.Via, realftp.Pub+"/"+up, labtest.Content(smallFile)); err != nil {
					t.Fatal(err)
				}
				if got, err := server.File(up); err != nil || !bytes.Equal(got, labtest.Content(smallFile)) {
					t.Errorf("uploaded %d bytes, %v, that differ from the file's %d", len(got), err, smallFile)
				}
				if got := mustRead(t, fw.Related) - before; got != 2 {
					t.Errorf("%d related packets for 2 data connections", got)
				}
				if err := c.Quit(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		if n := mustRead(t, fw.Dropped); n != 0 {
			t.Errorf("%d packets dropped", n)
		}
	})
}

// joinedEnds is a host whose clients send CR and LF in one segment: ProFTPD
// 1.3.8 loses a line whose CR it reads before the LF has come.
type joinedEnds struct{ *lab.Host }

// DialTCP implements miniftp.Network.
func (n joinedEnds) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	conn, err := n.Host.DialTCP(ctx, local, remote)
	if err != nil || remote.Port() != lab.ControlPort {
		return conn, err
	}
	return joined{conn}, nil
}

type joined struct{ net.Conn }

// Write implements io.Writer.
func (c joined) Write(b []byte) (int, error) {
	switch string(b) {
	case "\r":
		return len(b), nil
	case "\n":
		_, err := c.Conn.Write([]byte("\r\n"))
		return len(b), err
	}
	return c.Conn.Write(b)
}

// tlsNetwork is a host with a client whose control connection can switch to TLS.
// Its data connections stay in clear text.
type tlsNetwork struct {
	*lab.Host
	version uint16 // of TLS, the highest
	control *tlsControl
}

// DialTCP implements miniftp.Network.
func (n *tlsNetwork) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	conn, err := n.Host.DialTCP(ctx, local, remote)
	if err != nil || remote.Port() != lab.ControlPort {
		return conn, err
	}
	n.control = &tlsControl{Conn: conn, plain: conn}
	return n.control, nil
}

// login returns a client of a real server that has switched to TLS and logged in.
func (n *tlsNetwork) login(ctx context.Context, t *testing.T, server netip.Addr) *miniftp.Client {
	t.Helper()
	c := labtest.Dial(ctx, t, n, netip.AddrPortFrom(server, lab.ControlPort))
	if _, err := c.Command(ctx, 234, "AUTH TLS"); err != nil {
		t.Fatal(err)
	}
	// The server signed its certificate itself.
	n.control.secured = tls.Client(n.control.plain, &tls.Config{InsecureSkipVerify: true, MaxVersion: n.version})
	n.control.Conn = n.control.secured
	if err := n.control.secured.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(ctx, realftp.User, realftp.Password); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"PBSZ 0", "PROT C"} {
		if _, err := c.Command(ctx, 200, line); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// tlsControl is a control connection in clear text or in TLS.
type tlsControl struct {
	net.Conn // the one in use
	plain    net.Conn
	secured  *tls.Conn
}

// Read implements io.Reader. The end of TLS, which may come in one segment with
// the reply to CCC, is not the end of the connection.
func (c *tlsControl) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		err = nil
	}
	return n, err
}

// clear returns to clear text after an accepted CCC: a close_notify each way
// (RFC 4217 section 9).
func (c *tlsControl) clear() error {
	if err := c.secured.CloseWrite(); err != nil {
		return err
	}
	if _, err := c.secured.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("the server goes on in TLS"), err)
	}
	c.Conn = c.plain
	return c.plain.SetDeadline(time.Time{}) // CloseWrite leaves one that is over
}
