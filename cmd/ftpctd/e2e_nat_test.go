package main_test

import (
	"bytes"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// public is the address of the router outside.
var public = netip.MustParseAddr("198.51.100.80")

// masquerade translates the client to the public address outside.
const masquerade = "-t nat -A POSTROUTING -p tcp -d 203.0.113.10 -j SNAT --to-source 198.51.100.80\n"

// routePublic routes packets to the public address through the router.
func routePublic(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range []*lab.Host{l.Client, l.Server} {
		mustShell(t, h, "ip route add "+public.String()+" via 169.254.0.1 dev eth0 onlink")
	}
}

// mustShell runs commands, one per line.
func mustShell(t *testing.T, h *lab.Host, commands string) {
	t.Helper()
	for command := range strings.Lines(commands) {
		args := strings.Fields(command)
		if len(args) == 0 {
			continue
		}
		if _, err := exec.LookPath(args[0]); err != nil {
			labtest.Unmet(t, "needs "+args[0]+": run sudo make deps")
		}
		if _, err := h.Output(exec.Command(args[0], args[1:]...)); err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(command), err)
		}
	}
}

// checkConntrack skips the test unless the queue's packets come with their conntrack
// entry.
func checkConntrack(t *testing.T, d *daemon) {
	t.Helper()
	if d.log.count("msg=ready", "conntrack=true") == 0 {
		labtest.UnmetKernel(t, "the kernel does not say what conntrack knows of a queued packet (CONFIG_NETFILTER_NETLINK_GLUE_CT)")
	}
}

// TestNAT is a router with NAT for control connections. Their data connections get the
// same NAT, without another rule.
func TestNAT(t *testing.T) {
	const forward = "-t nat -A PREROUTING -p tcp -d 198.51.100.80 --dport 2121 -j DNAT --to-destination 203.0.113.10:21\n"
	private := netip.MustParseAddrPort("203.0.113.10:21")
	outside := netip.AddrPortFrom(public, 2121)
	tests := []struct {
		name, rules string
		server      netip.AddrPort // as the client knows it
		both        bool           // source and destination are translated
		active      bool           // works
	}{
		{name: "client behind NAT", rules: masquerade, server: private},
		{name: "server behind NAT", rules: forward, server: outside, active: true},
		{name: "both behind NAT", rules: masquerade + forward, server: outside, both: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			routePublic(t, l)
			iptables(t, l.Router, tt.rules)
			s := &miniftp.Server{DataTimeout: blockedTimeout, PassiveAddr: tt.server.Addr()}
			want := labtest.Content(smallFile)
			s.Put("file", want)
			labtest.Serve(t, l.Server, s)
			fw := installDropFirewall(t, l.Router, lab.Forward)
			d := start(t, l.Router, "")
			if tt.both {
				checkConntrack(t, d)
			}
			c := labtest.Dial(ctx, t, l.Client, tt.server)
			if err := c.Login(ctx, "anonymous", "lab@example.com"); err != nil {
				t.Fatal(err)
			}
			for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229, ftpparse.PORT, ftpparse.EPRT} {
				if via.Active() && !tt.active {
					if _, err := c.Retr(ctx, via, "file"); err == nil {
						t.Errorf("%s: a download succeeds: the server can reach an address inside", via)
					}
					checkAlive(ctx, t, c)
					d.expectLog(t, "data connection rejected", "via="+via.String(), "reason=active-behind-nat")
					continue
				}
				before := mustRead(t, fw.Related)
				got, err := c.Retr(ctx, via, "file")
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: downloaded %d bytes, %v, that differ from the file's %d", via, len(got), err, len(want))
				}
				if got := mustRead(t, fw.Related) - before; got != 1 {
					t.Errorf("%s: %d related packets for 1 data connection", via, got)
				}
			}
		})
	}
}

// clientBehindNAT makes a lab whose router translates the client to its public address.
func clientBehindNAT(t *testing.T) *lab.Lab {
	t.Helper()
	l := labtest.New(t, lab.Config{})
	routePublic(t, l)
	iptables(t, l.Router, masquerade)
	return l
}

// TestActiveBehindNAT is a client that announces its public address.
func TestActiveBehindNAT(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := clientBehindNAT(t)
	labtest.Serve(t, l.Server, &miniftp.Server{})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	start(t, l.Router, "")
	c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
	const port = 39632
	listen(ctx, t, l.Client, netip.AddrPortFrom(l.Client.IPv4(), port))
	outside := netip.AddrPortFrom(public, port)
	if _, err := c.Command(ctx, 200, "PORT "+hostPort(outside)); err != nil {
		t.Fatal(err)
	}
	expectConnect(ctx, t, l.Server, netip.AddrPort{}, outside)
	if got := mustRead(t, fw.Related); got != 1 {
		t.Errorf("%d related packets for 1 data connection", got)
	}
}

// TestTLSPortsBehindNAT is a TLS session of a client behind NAT. Its data connections
// need other rules: with passive.tls_ports they would leave with an address from inside.
func TestTLSPortsBehindNAT(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := clientBehindNAT(t)
	script{"AUTH": "234 go ahead"}.serve(ctx, t, l.Server)
	passive := netip.AddrPortFrom(l.Server.IPv4(), 30000)
	listener := labtest.Listen(ctx, t, l.Server, passive)
	fw, err := l.Router.OpenFirewall(lab.Forward)
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, l.Router, "admit = \"entry\"\n[passive]\ntls_ports = \"30000-30999\"\n")
	c := connect(ctx, t, l)
	c.expectReply(t, 220)
	c.command(t, 234, "AUTH TLS")

	conn, err := l.Client.DialTCP(ctx, netip.AddrPort{}, passive)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if got := data.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != public {
		t.Errorf("the data connection comes from %s, want %s", got, public)
	}
	if n := mustRead(t, fw.Related); n != 0 {
		t.Errorf("%d related packets, want none", n)
	}
	d.expectLog(t, "switched to TLS", "reason=translated")
}

// TestZone is a router that tracks its connections in a conntrack zone.
func TestZone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	iptables(t, l.Router, "-t raw -A PREROUTING -j CT --zone 7")
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	fw := installDropFirewall(t, l.Router, lab.Forward)
	d := start(t, l.Router, "")
	checkConntrack(t, d)
	for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.PORT} {
		before := mustRead(t, fw.Related)
		labtest.RoundTrip(ctx, t, labtest.Connect(ctx, t, l.Client, l.Server.IPv4()), s, miniftp.Way{Via: via, Server: l.Server.IPv4()})
		if got := mustRead(t, fw.Related) - before; got != 2 {
			t.Errorf("%s: %d related packets for 2 data connections", via, got)
		}
	}
}
