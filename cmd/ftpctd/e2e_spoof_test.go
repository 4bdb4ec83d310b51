package main_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/ftpparse"
)

// mustKeptAway reads the counters of the daemon's rules on a host.
func mustKeptAway(t *testing.T, h *lab.Host) firewall.Counters {
	t.Helper()
	var c firewall.Counters
	err := h.Do(func() (err error) {
		c, err = firewall.ReadCounters()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sysctl writes a file of /proc/sys as it is on a host.
func sysctl(t *testing.T, h *lab.Host, name, value string) {
	t.Helper()
	err := h.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// asymmetric gives the server another link to reach the client by.
func asymmetric(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.AddLink(l.Server, "second"); err != nil {
		t.Fatal(err)
	}
	mustShell(t, l.Server, fmt.Sprintf("ip route replace %s via 169.254.0.1 dev second onlink src %s\nip -6 route replace %s via fe80::1 dev second onlink src %s\n",
		l.Client.IPv4(), l.Server.IPv4(), l.Client.IPv6(), l.Server.IPv6()))
}

// routedByMark is asymmetric, and lets the router do the same: it marks the connections of
// the client, and both directions of what is marked go by the second link. The
// routes of the mark do not know the client.
func routedByMark(t *testing.T, l *lab.Lab) {
	t.Helper()
	asymmetric(t, l)
	// Neighbours are told of an IPv6 address on the link that has it alone.
	mustShell(t, l.Server, fmt.Sprintf("ip -6 addr add %s/128 dev second nodad\n", l.Server.IPv6()))
	for _, ip := range []struct {
		command string
		server  netip.Addr
	}{{"ip -4", l.Server.IPv4()}, {"ip -6", l.Server.IPv6()}} {
		mustShell(t, l.Router, fmt.Sprintf("%s rule add fwmark 2 lookup 100\n%s route add %s dev second table 100\n", ip.command, ip.command, ip.server))
	}
	for _, rule := range []string{
		"-j CONNMARK --restore-mark", "-i client -m mark --mark 0 -j MARK --set-mark 2", "-j CONNMARK --save-mark",
	} {
		mustShell(t, l.Router, "iptables -w 10 -t mangle -A PREROUTING "+rule+"\nip6tables -w 10 -t mangle -A PREROUTING "+rule+"\n")
	}
}

// multipath is asymmetric, and the router's route to the server has both links.
func multipath(t *testing.T, l *lab.Lab) {
	t.Helper()
	asymmetric(t, l)
	for _, name := range []string{"eth0", "second"} {
		mustShell(t, l.Server, "ip -6 addr add fe80::2/64 dev "+name+" nodad\n")
	}
	mustShell(t, l.Router, fmt.Sprintf("ip route replace %s nexthop dev server nexthop dev second\nip -6 route del %s dev server\nip -6 route add %s nexthop via fe80::2 dev server nexthop via fe80::2 dev second\n",
		l.Server.IPv4(), l.Server.IPv6(), l.Server.IPv6()))
}

// bridged makes the router a bridge without addresses, whose packets the firewall
// sees.
func bridged(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range []*lab.Host{l.Client, l.Server} {
		peer := l.Client
		if h == l.Client {
			peer = l.Server
		}
		mustShell(t, h, fmt.Sprintf("ip route replace %s dev eth0\nip -6 route del %s\nip -6 route add %s dev eth0\n", peer.IPv4(), peer.IPv6(), peer.IPv6()))
	}
	mustShell(t, l.Router, "ip addr flush dev client\nip addr flush dev server\nip link add br0 type bridge forward_delay 0\n"+
		"ip link set client master br0\nip link set server master br0\nip link set br0 up\n")
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := l.Router.Do(func() error { return os.WriteFile("/proc/sys/net/bridge/"+name, []byte("1"), 0) })
		if err != nil {
			labtest.Unmet(t, "needs br_netfilter: modprobe br_netfilter: "+err.Error())
		}
	}
}

// inVRF puts both links of the router into a VRF.
func inVRF(t *testing.T, l *lab.Lab) {
	t.Helper()
	if _, err := l.Router.Output(exec.Command("ip", "link", "add", "vrf0", "type", "vrf", "table", "10")); err != nil {
		labtest.UnmetKernel(t, "the kernel has no VRF (CONFIG_NET_VRF)")
	}
	mustShell(t, l.Router, "ip link set vrf0 up\nip link set client master vrf0\nip link set server master vrf0\n")
	for _, h := range []*lab.Host{l.Client, l.Server} { // whose links were down for a moment
		mustShell(t, l.Router, fmt.Sprintf("ip -6 addr replace fe80::1/128 dev %[3]s nodad\nip route replace %[1]s dev %[3]s table 10\nip -6 route replace %[2]s dev %[3]s table 10\n",
			h.IPv4(), h.IPv6(), h.Name()))
	}
}

// TestAntiSpoof is a firewall on hosts with different routes. Where the route back to an
// address is not the link that its packets arrive on, nothing is inspected: that is
// counted and logged, and the control connection lives.
func TestAntiSpoof(t *testing.T) {
	t.Parallel()
	router := func(l *lab.Lab) *lab.Host { return l.Router }
	server := func(l *lab.Lab) *lab.Host { return l.Server }
	client := func(l *lab.Lab) *lab.Host { return l.Client }
	const (
		served     = iota
		servedIPv4 // IPv6 by chance
		unread
	)
	for _, tt := range []struct {
		name  string
		host  func(*lab.Lab) *lab.Host
		hooks []lab.Hook
		place func(*testing.T, *lab.Lab)
		spoof string
		want  int
	}{
		{name: "router", host: router, hooks: []lab.Hook{lab.Forward}, spoof: "strict", want: served},
		{name: "server", host: server, hooks: []lab.Hook{lab.Input, lab.Output}, spoof: "strict", want: served},
		{name: "client", host: client, hooks: []lab.Hook{lab.Input, lab.Output}, spoof: "strict", want: served},
		{name: "router, loose", host: router, hooks: []lab.Hook{lab.Forward}, spoof: "loose", want: served},
		{name: "server, loose", host: server, hooks: []lab.Hook{lab.Input, lab.Output}, spoof: "loose", want: served},
		{name: "asymmetric routes", host: router, hooks: []lab.Hook{lab.Forward}, place: asymmetric, spoof: "strict", want: unread},
		{name: "asymmetric routes, loose", host: router, hooks: []lab.Hook{lab.Forward}, place: asymmetric, spoof: "loose", want: served},
		{name: "routes by mark", host: router, hooks: []lab.Hook{lab.Forward}, place: routedByMark, spoof: "strict", want: served},
		// In IPv6 the lookup chooses one of the two, and may choose the other.
		{name: "a route over two links", host: router, hooks: []lab.Hook{lab.Forward}, place: multipath, spoof: "strict", want: servedIPv4},
		{name: "a route over two links, loose", host: router, hooks: []lab.Hook{lab.Forward}, place: multipath, spoof: "loose", want: served},
		{name: "bridge without addresses", host: router, hooks: []lab.Hook{lab.Forward}, place: bridged, spoof: "strict", want: unread},
		{name: "bridge without addresses, off", host: router, hooks: []lab.Hook{lab.Forward}, place: bridged, spoof: "off", want: served},
		{name: "VRF", host: router, hooks: []lab.Hook{lab.Forward}, place: inVRF, spoof: "strict", want: served},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			if tt.place != nil {
				tt.place(t, l)
			}
			s := &miniftp.Server{DataTimeout: blockedTimeout}
			s.Put("file", labtest.Content(smallFile))
			labtest.Serve(t, l.Server, s)
			fw := installDropFirewall(t, tt.host(l), tt.hooks...)
			d := start(t, tt.host(l), fmt.Sprintf("[firewall]\nanti_spoof = %q\n", tt.spoof))
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				if tt.want == servedIPv4 && w.Server.Is6() {
					continue
				}
				t.Run(w.String(), func(t *testing.T) {
					before := mustKeptAway(t, d.host).Spoofed
					c := labtest.Connect(ctx, t, l.Client, w.Server)
					spoofed := mustKeptAway(t, d.host).Spoofed > before
					if spoofed != (tt.want == unread) {
						t.Errorf("packets that failed the source address check: %t", spoofed)
					}
					if spoofed && w.Via.Active() {
						return // what the client announces may be all that has to be read
					}
					if spoofed {
						expectTransferBlocked(ctx, t, fw.Dropped, c, w.Via, "file")
						return
					}
					related := mustRead(t, fw.Related)
					labtest.RoundTrip(ctx, t, c, s, w)
					if got := mustRead(t, fw.Related) - related; got != 2 {
						t.Errorf("%d related packets for 2 data connections", got)
					}
				})
			}
			if tt.want == unread {
				d.expectLog(t, "level=WARN", "source address check", "firewall.anti_spoof")
			} else if n := d.log.count("source address check"); n > 0 {
				t.Errorf("%d warnings about the source address check, want none", n)
			}
		})
	}
}

// TestAntiSpoofNAT is a router with NAT: the route back is that to the address which its
// own filters see.
func TestAntiSpoofNAT(t *testing.T) {
	t.Parallel()
	const forward = "-t nat -A PREROUTING -p tcp -d 198.51.100.80 --dport 2121 -j DNAT --to-destination 203.0.113.10:21\n"
	for _, tt := range []struct {
		name, rules string
		server      netip.AddrPort // as the client knows it
	}{
		{"masquerading", masquerade, netip.MustParseAddrPort("203.0.113.10:21")},
		{"a server inside", forward, netip.AddrPortFrom(public, 2121)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			routePublic(t, l)
			iptables(t, l.Router, tt.rules)
			s := &miniftp.Server{DataTimeout: blockedTimeout, PassiveAddr: tt.server.Addr()}
			s.Put("file", labtest.Content(smallFile))
			labtest.Serve(t, l.Server, s)
			installDropFirewall(t, l.Router, lab.Forward)
			start(t, l.Router, "")
			c := labtest.Dial(ctx, t, l.Client, tt.server)
			if err := c.Login(ctx, "anonymous", "lab@example.com"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Retr(ctx, ftpparse.R227, "file"); err != nil {
				t.Error(err)
			}
			if n := mustKeptAway(t, l.Router).Spoofed; n > 0 {
				t.Errorf("%d packets failed the source address check", n)
			}
		})
	}
}

// TestLoopback is a client and a server on the host of the daemon, over lo, for which
// there is no route back to look up.
func TestLoopback(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	d := start(t, l.Server, "")
	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		before := d.log.count(`msg="data connection expected"`, "via="+w.Via.String())
		labtest.RoundTrip(ctx, t, labtest.Connect(ctx, t, l.Server, w.Server), s, w)
		labtest.Eventually(t, "both data connections are expected", func() bool {
			return d.log.count(`msg="data connection expected"`, "via="+w.Via.String()) >= before+2
		})
	}
	if n := mustKeptAway(t, l.Server).Spoofed; n > 0 {
		t.Errorf("%d packets failed the source address check", n)
	}
}

// TestForgedSource is a host outside that sends SYNs with the address of a host inside
// to a control port, through the router. The kernel's reverse path filter does not stop
// them: IPv6 has none, and in IPv4 it may be off.
func TestForgedSource(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, spoof string
		rpFilter    string
		ipv6        bool
		vrf         bool
		trusted     bool
	}{
		{name: "IPv4, rp_filter 0", spoof: "strict", rpFilter: "0"},
		{name: "IPv4, rp_filter 2", spoof: "strict", rpFilter: "2"},
		{name: "IPv6", spoof: "strict", rpFilter: "0", ipv6: true},
		{name: "IPv4, off", spoof: "off", rpFilter: "0", trusted: true},
		{name: "IPv6, off", spoof: "off", rpFilter: "0", ipv6: true, trusted: true},
		// In its filters a packet comes from the VRF, and from none of its links.
		{name: "IPv4, VRF", spoof: "strict", rpFilter: "0", vrf: true, trusted: true},
		{name: "IPv6, VRF", spoof: "strict", rpFilter: "0", ipv6: true, vrf: true, trusted: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := labtest.New(t, lab.Config{})
			for _, name := range []string{"all", "server"} {
				sysctl(t, l.Router, "ipv4/conf/"+name+"/rp_filter", tt.rpFilter)
			}
			const host4, host6 = "198.51.100.21", "fd00:198:51::21"
			mustShell(t, l.Server, "ip route add "+host4+" via 169.254.0.1 dev eth0 onlink\nip -6 route add "+host6+" via fe80::1 dev eth0 onlink\n")
			table := "main"
			if tt.vrf {
				inVRF(t, l)
				table = "10"
			}
			mustShell(t, l.Router, "ip route add "+host4+" dev server table "+table+"\nip -6 route add "+host6+" dev server table "+table+"\n")
			d := start(t, l.Router, fmt.Sprintf("[firewall]\nanti_spoof = %q\n", tt.spoof))
			src, dst := netip.AddrPortFrom(l.Client.IPv4(), 40000), netip.MustParseAddrPort(host4+":21")
			if tt.ipv6 {
				src, dst = netip.AddrPortFrom(l.Client.IPv6(), 40000), netip.MustParseAddrPort("["+host6+"]:21")
			}
			before := queued(t, l.Router)
			if err := l.Server.Do(func() error { return sendSYN(src, dst) }); err != nil {
				t.Fatal(err)
			}
			if tt.trusted {
				labtest.Eventually(t, "the SYN is through", func() bool { return tracked(t, l.Router, src) })
				if n := mustKeptAway(t, l.Router).Spoofed; n > 0 {
					t.Errorf("%d packets failed the source address check", n)
				}
				return
			}
			labtest.Eventually(t, "the SYN is counted", func() bool { return mustKeptAway(t, l.Router).Spoofed == 1 })
			if n := queued(t, l.Router) - before; n > 0 {
				t.Errorf("%d packets are queued", n)
			}
			d.expectLog(t, "level=WARN", "source address check", "packets=1")
		})
	}
}

// tracked reports whether conntrack on h has a connection that src began.
func tracked(t *testing.T, h *lab.Host, src netip.AddrPort) bool {
	t.Helper()
	family := netlink.InetFamily(unix.AF_INET)
	if src.Addr().Is6() {
		family = unix.AF_INET6
	}
	found := false
	err := h.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		for _, f := range flows {
			addr, _ := netip.AddrFromSlice(f.Forward.SrcIP)
			found = found || netip.AddrPortFrom(addr.Unmap(), f.Forward.SrcPort) == src
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sendSYN sends a SYN from any address, from the calling thread's namespace.
func sendSYN(src, dst netip.AddrPort) error {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	tcp[12], tcp[13], tcp[14] = 5<<4, 0b10, 0x10
	sum := uint32(unix.IPPROTO_TCP + len(tcp)) // of the pseudo header (RFC 9293 section 3.1)
	for _, b := range [][]byte{src.Addr().AsSlice(), dst.Addr().AsSlice(), tcp} {
		for ; len(b) > 0; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	for sum>>16 > 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))

	family, packet, to := unix.AF_INET, []byte(nil), unix.Sockaddr(nil)
	if dst.Addr().Is4() {
		ip := make([]byte, 20) // the kernel fills in the checksum
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		packet, to = append(ip, tcp...), &unix.SockaddrInet4{Addr: dst.Addr().As4()}
	} else {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
		family, packet, to = unix.AF_INET6, append(ip, tcp...), &unix.SockaddrInet6{Addr: dst.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // headers included
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("sendto", unix.Sendto(fd, packet, 0, to))
}

// TestFastOpen is a client whose SYN carries its first command. The SYN that it
// retransmits does not, and the connection works.
func TestFastOpen(t *testing.T) {
	t.Parallel()
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			// Without a cookie, on the client, on the server and for every listener:
			// net.ipv4.tcp_fastopen of the kernel's ip-sysctl.rst.
			sysctl(t, l.Client, "ipv4/tcp_fastopen", "5")
			sysctl(t, l.Server, "ipv4/tcp_fastopen", "1538")
			labtest.Serve(t, l.Server, &miniftp.Server{})
			to := netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort)
			if family == "IPv6" {
				to = netip.AddrPortFrom(l.Server.IPv6(), lab.ControlPort)
			}
			opensFast := func() int {
				t.Helper()
				conn := dialFastOpen(ctx, t, l.Client, to)
				defer conn.Close()
				if _, err := conn.Write([]byte("NOOP\r\n")); err != nil {
					t.Fatal(err)
				}
				var text []byte
				for b := make([]byte, 512); strings.Count(string(text), "\n") < 2; {
					n, err := conn.Read(b)
					if err != nil {
						t.Fatalf("%v after %q, want a greeting and the reply to NOOP", err, text)
					}
					text = append(text, b[:n]...)
				}
				var acked int
				err := l.Client.Do(func() error {
					raw, err := conn.(*net.TCPConn).SyscallConn()
					if err != nil {
						return err
					}
					return raw.Control(func(fd uintptr) {
						info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
						const synData = 32 // TCPI_OPT_SYN_DATA: the SYN's data was acknowledged
						if err == nil && info.Options&synData != 0 {
							acked++
						}
					})
				})
				if err != nil {
					t.Fatal(err)
				}
				return acked
			}
			if opensFast() == 0 {
				t.Fatal("without the daemon the server does not take the data of a SYN: nothing is tested")
			}
			d := start(t, l.Router, "")
			if opensFast() != 0 {
				t.Error("the server takes the data of a SYN")
			}
			if n := mustKeptAway(t, l.Router).FastOpens; n != 1 {
				t.Errorf("%d SYNs with data are counted, want 1", n)
			}
			d.expectLog(t, "level=INFO", "SYNs with data", "packets=1")
		})
	}
}

// dialFastOpen connects when the first bytes are written.
func dialFastOpen(ctx context.Context, t *testing.T, h *lab.Host, to netip.AddrPort) net.Conn {
	t.Helper()
	dialer := net.Dialer{FallbackDelay: -1, Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
