package main_test

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/realftp"
	"ftpctd/ftpparse"
)

// otherClient adds a second, routed address to the client's host: another client, to the
// firewall.
func otherClient(t *testing.T, l *lab.Lab) netip.Addr {
	t.Helper()
	addr := netip.MustParseAddr("192.168.0.99")
	prefix := netlink.NewIPNet(addr.AsSlice())
	err := l.Client.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: prefix})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Router.Do(func() error {
		link, err := netlink.LinkByName("client")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Scope: netlink.SCOPE_LINK})
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// TestTLSPorts makes sure that the passive range of a server is open to a client while
// its control connection is in TLS, and to nobody else.
func TestTLSPorts(t *testing.T) {
	t.Parallel()
	for _, s := range realftp.Servers() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			other := otherClient(t, l)
			server := l.Server.IPv4()
			serveAs(ctx, t, l.Server, s, realftp.ServerConfig{TLS: true})
			// A service within the range that no session has announced.
			inside := netip.AddrPortFrom(server, 31000)
			outside := netip.AddrPortFrom(server, 31001)
			listen(ctx, t, l.Server, inside)
			listen(ctx, t, l.Server, outside)
			fw := installDropFirewall(t, l.Router, lab.Forward)
			d := start(t, l.Router, "admit = \"entry\"\n[passive]\ntls_ports = \"30000-31000\"\n")
			from := func(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, 0) }

			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, inside)
			wire := &tlsNetwork{Host: l.Client}
			c := wire.login(ctx, t, server)
			related := mustRead(t, fw.Related)
			for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229} {
				mustRetrieve(ctx, t, c, via)
				related++
			}
			if got := mustRead(t, fw.Related); got != related {
				t.Errorf("%d related packets, want %d", got, related)
			}
			expectConnect(ctx, t, l.Client, netip.AddrPort{}, inside)
			expectBlocked(ctx, t, fw, l.Client, from(other), inside)
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, outside)
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, netip.AddrPortFrom(l.Server.IPv6(), inside.Port()))

			if err := c.Quit(ctx); err != nil {
				t.Error(err)
			}
			d.expectLog(t, "control connection closed")
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, inside)
		})
	}
}

// TestTLSPortsWithRealClients is the same with data connections in TLS, too.
func TestTLSPortsWithRealClients(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	s := realftp.Servers()[0]
	serveAs(ctx, t, l.Server, s, realftp.ServerConfig{TLS: true})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	start(t, l.Router, "admit = \"entry\"\n[passive]\ntls_ports = \"30000-30999\"\n")
	for _, c := range realftp.Clients() {
		if !c.SupportsTLS() {
			continue
		}
		for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229} {
			t.Run(c.Name+" "+via.String(), func(t *testing.T) {
				runClient(ctx, t, l, fw, c, realftp.Transfer{
					Server: l.Server.IPv4(), Via: via, Protection: realftp.Private,
				})
			})
		}
	}
}
