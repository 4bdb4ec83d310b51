package ctnetlink

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// The attributes of a connection to a server behind NAT, as Linux 6.12 adds them
// to a packet of a queue.
const (
	connectionOrig = `
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 c0a800d3               #     192.168.0.211
    0800 0200 cb007101               #     203.0.113.1
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0849 0000              #     2121`
	connectionReply = `
3400 0280                            # CTA_TUPLE_REPLY
  1400 0180
    0800 0100 0a000001               #     10.0.0.1
    0800 0200 c0a800d3
  1c00 0280
    0500 0100 06 000000
    0600 0200 0015 0000              #     21
    0600 0300 9c41 0000`
	connectionRest = `
0800 0c00 deadbeef                   # CTA_ID
0800 0300 0000018e                   # CTA_STATUS: ASSURED and others
0800 0700 000069ff                   # CTA_TIMEOUT
3000 0480                            # CTA_PROTOINFO
  2c00 0180                          #   CTA_PROTOINFO_TCP
    0500 0100 03 000000              #     CTA_PROTOINFO_TCP_STATE ESTABLISHED
    0500 0200 07 000000              #     CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
    0500 0300 07 000000
    0600 0400 2300 0000              #     CTA_PROTOINFO_TCP_FLAGS_ORIGINAL
    0600 0500 3300 0000
1000 0580                            # CTA_HELP
  0b00 0100 66747063746400 00        #   CTA_HELP_NAME "ftpctd"
0800 0800 00000000                   # CTA_MARK`
	connectionZone = "0600 1200 0007 0000 # CTA_ZONE 7\n"
	// The same with a zone of the original direction alone.
	connectionOrigZone = `
3c00 0180
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0849 0000
  0600 0300 0009 0000                # CTA_TUPLE_ZONE 9`
	connection6 = `
4c00 0180
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000
4c00 0280
  2c00 0180
    1400 0300 fd000000000000000000000000000001
    1400 0400 fd000000000000000000000000000002
  1c00 0280
    0500 0100 06 000000
    0600 0200 0015 0000
    0600 0300 9c41 0000`
)

func TestParseConnection(t *testing.T) {
	skipBigEndian(t)
	forwarded := conntrack.Connection{
		Original: conntrack.Tuple{Src: addrPort("192.168.0.211:40001"), Dst: addrPort("203.0.113.1:2121")},
		Reply:    conntrack.Tuple{Src: addrPort("10.0.0.1:21"), Dst: addrPort("192.168.0.211:40001")},
		ID:       0xdeadbeef, State: conntrack.StateEstablished, Assured: true,
	}
	with := func(f func(c *conntrack.Connection)) conntrack.Connection {
		c := conntrack.Connection{Original: forwarded.Original, Reply: forwarded.Reply}
		f(&c)
		return c
	}
	inZone := func(zone uint16) conntrack.Connection {
		c := forwarded
		c.Zone = zone
		return c
	}
	tests := []struct {
		name, attrs string
		want        conntrack.Connection
		err         error
	}{
		{"default zone", connectionOrig + connectionReply + "\n" + connectionRest, forwarded, nil},
		{"zone", connectionOrig + connectionReply + "\n" + connectionZone + connectionRest, inZone(7), nil},
		{"zone of the original direction", connectionOrigZone + connectionReply + "\n" + connectionRest, inZone(9), nil},
		{"IPv6", connection6, conntrack.Connection{
			Original: conntrack.Tuple{Src: addrPort("[fd00::2]:40001"), Dst: addrPort("[fd00::1]:21")},
			Reply:    conntrack.Tuple{Src: addrPort("[fd00::1]:21"), Dst: addrPort("[fd00::2]:40001")},
		}, nil},
		{"expected", connectionOrig + connectionReply + "\n0800 0300 00000009", with(func(c *conntrack.Connection) { c.Expected = true }), nil},
		{"seen both ways, not ASSURED", connectionOrig + connectionReply + "\n0800 0300 0000000a", with(func(*conntrack.Connection) {}), nil},
		{"SYN_RECV", connectionOrig + connectionReply + "\n1000 0480 0c00 0180 0500 0100 02 000000", with(func(c *conntrack.Connection) { c.State = conntrack.StateSynRecv }), nil},
		{"given up", connectionOrig + connectionReply + "\n1400 1600 0000000000000000 0000000000000020", with(func(c *conntrack.Connection) { c.Unread = true }), nil},
		{"other labels", connectionOrig + connectionReply + "\n1400 1600 ffffffffffffffff ffffffffffffffdf", with(func(*conntrack.Connection) {}), nil},
		{"labels of another length", connectionOrig + connectionReply + "\n0800 1600 ffffffff", with(func(*conntrack.Connection) {}), nil},
		{"picked up by conntrack", connectionOrig + connectionReply + "\n1800 0480 1400 0180 0600 0400 2300 0000  0600 0500 2a00 0000", with(func(c *conntrack.Connection) { c.PickedUp = true }), nil},
		{"flags of one byte", connectionOrig + connectionReply + "\n1000 0480 0c00 0180 0500 0400 2a 000000", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"state of another protocol", connectionOrig + connectionReply + "\n1000 0480 0c00 0280 0500 0100 02 000000", with(func(*conntrack.Connection) {}), nil},
		{"state of two bytes", connectionOrig + connectionReply + "\n1000 0480 0c00 0180 0600 0100 0002 0000", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"status of two bytes", connectionOrig + connectionReply + "\n0600 0300 0009 0000", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"ID of two bytes", connectionOrig + connectionReply + "\n0600 0c00 0009 0000", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"nothing", "", conntrack.Connection{}, errNoTuple},
		{"one direction", connectionOrig, conntrack.Connection{}, errNoTuple},
		{"cut within an attribute", connectionOrig + "\n3400 0280 1400 0180", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"cut within a header", connectionOrig + connectionReply + "\n0800", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"address of five bytes", "1400 0180 1000 0180 0900 0100 7f00000100 000000", conntrack.Connection{}, errAddress},
		{"port of one byte", "1000 0180 0c00 0280 0500 0200 01 000000", conntrack.Connection{}, nfnetlink.ErrAttribute},
		{"protocol of two bytes", "1000 0180 0c00 0280 0600 0100 0006 0000", conntrack.Connection{}, nfnetlink.ErrAttribute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := labtest.ParseHex(t, tt.attrs)
			var got conntrack.Connection
			if err := ParseConnection(b, &got); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			} else if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("connection (-want +got):\n%s", diff)
			}
			if zone := Zone(b); zone != tt.want.Zone {
				t.Errorf("zone %d, want %d", zone, tt.want.Zone)
			}
			if n := testing.AllocsPerRun(100, func() { _ = ParseConnection(b, &got) }); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}

// TestConnection looks up real connections in each state of their beginning.
func TestConnection(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			countRelated(t) // has conntrack on
			c := openConn(t)
			look := func(ends conntrack.Tuple) conntrack.Connection {
				t.Helper()
				got, err := c.Lookup(ends)
				if err != nil {
					t.Fatal(err)
				}
				if got.ID == 0 {
					t.Error("no ID")
				}
				got.ID = 0
				return got
			}
			l := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))
			ends := tuple(dial(t, l))
			want := conntrack.Connection{
				Original: ends, Reply: conntrack.Tuple{Src: ends.Dst, Dst: ends.Src},
				State: conntrack.StateEstablished, Assured: true,
			}
			if diff := cmp.Diff(want, look(ends), compareAddrs); diff != "" {
				t.Errorf("established (-want +got):\n%s", diff)
			}
			_, err := c.Lookup(conntrack.Tuple{Src: ends.Src, Dst: ends.Src})
			wantErrno(t, err, unix.ENOENT)

			data := conntrack.Tuple{Src: netip.AddrPortFrom(ends.Src.Addr(), 20), Dst: netip.AddrPortFrom(ends.Dst.Addr(), 2121)}
			if err := c.CreateEntry(data, ends); err != nil {
				t.Fatal(err)
			}
			want = conntrack.Connection{Original: data, Reply: conntrack.Tuple{Src: data.Dst, Dst: data.Src}, Expected: true}
			if diff := cmp.Diff(want, look(data), compareAddrs); diff != "" {
				t.Errorf("expected (-want +got):\n%s", diff)
			}

			for _, step := range []struct {
				name string
				drop func()
				want conntrack.TCPState
			}{
				{"no answer yet", func() { dropIn(t, lab.ToControlPort()) }, conntrack.StateSynSent},
				{"answered", func() { dropIn(t, fromControlPort()) }, conntrack.StateSynRecv},
			} {
				labtest.EnterNetns(t)
				countRelated(t)
				c = openConn(t)
				l = labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))
				step.drop()
				begun := begin(t, freePort(t, tt.host), l.Addr().(*net.TCPAddr).AddrPort())
				got := look(begun)
				if got.State != step.want || got.Assured || got.Original != begun {
					t.Errorf("%s: %+v, want %v in state %d", step.name, got, begun, step.want)
				}
			}
		})
	}
}

// fromControlPort is the part of a rule that matches TCP packets from port 21.
func fromControlPort() []expr.Any {
	parts := lab.ToControlPort()
	parts[len(parts)-2].(*expr.Payload).Offset = 0
	return parts
}

// dropIn drops incoming packets that match, until the end of the namespace.
func dropIn(t *testing.T, match []expr.Any) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Name: "drop", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Verdict{Kind: expr.VerdictDrop})})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
}

// begin sends the SYN of a connection, which goes through loopback before this returns.
func begin(t *testing.T, src, dst netip.AddrPort) conntrack.Tuple {
	t.Helper()
	family := unix.AF_INET
	if src.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, sockaddr(src)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sockaddr(dst)); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	return conntrack.Tuple{Src: src, Dst: dst}
}

// TestPickedUp looks up a connection that conntrack picked up in the middle, and one whose
// handshake it saw.
func TestPickedUp(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			l := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))
			client, server := labtest.DialNetns(t, "", l)
			countRelated(t) // has conntrack on
			for _, send := range [][2]net.Conn{{client, server}, {server, client}, {client, server}} {
				if _, err := send[0].Write([]byte("NOOP\r\n")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(send[1], make([]byte, 6)); err != nil {
					t.Fatal(err)
				}
			}
			c := openConn(t)
			for ends, pickedUp := range map[conntrack.Tuple]bool{tuple(client): true, tuple(dial(t, l)): false} {
				got, err := c.Lookup(ends)
				if err != nil || !got.Assured || got.State != conntrack.StateEstablished || got.PickedUp != pickedUp {
					t.Errorf("%+v (error %v), want it picked up: %v", got, err, pickedUp)
				}
			}
			found, err := c.Servers([]uint16{21})
			if err != nil {
				t.Fatal(err)
			}
			if n, leftOut := conntrack.NewOlder(found, []uint16{21}, 10).Len(); len(found) != 2 || n != 1 || leftOut != 0 {
				t.Errorf("%d of %d are older, %d left out; want one of two", n, len(found), leftOut)
			}
		})
	}
}

// TestServers lists the connections to control ports, whatever port their clients
// connected to, and no others.
func TestServers(t *testing.T) {
	labtest.EnterNetns(t)
	countRelated(t)
	redirect(t, 2222, 21)
	c := openConn(t)
	ports := []uint16{21, 2121}
	if found, err := c.Servers(ports); err != nil || len(found) != 0 {
		t.Fatalf("%+v, error %v; want none", found, err)
	}
	want := make(map[conntrack.Tuple]conntrack.Connection)
	for _, host := range []string{"127.0.0.1", "::1"} {
		l := labtest.ListenNetns(t, net.JoinHostPort(host, "21"))
		dial(t, labtest.ListenNetns(t, net.JoinHostPort(host, "8021"))) // not listed
		server := l.Addr().(*net.TCPAddr).AddrPort()
		plain := tuple(dial(t, l))
		other := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(host, "2121"))))
		behind := conntrack.Tuple{Src: freePort(t, host), Dst: netip.AddrPortFrom(server.Addr(), 2222)}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(behind.Src)}
		client, err := d.Dial("tcp", behind.Dst.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		for _, ends := range []conntrack.Tuple{plain, other, behind} {
			reply := conntrack.Tuple{Src: ends.Dst, Dst: ends.Src}
			if ends == behind {
				reply.Src = server
			}
			want[ends] = conntrack.Connection{Original: ends, Reply: reply, State: conntrack.StateEstablished, Assured: true}
		}
	}
	found, err := c.Servers(ports)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[conntrack.Tuple]conntrack.Connection)
	for _, f := range found {
		again, err := c.Lookup(f.Endpoints())
		if err != nil || again.ID != f.ID {
			t.Errorf("%+v, looked up as %+v (error %v): another ID", f, again, err)
		}
		f.ID = 0
		got[f.Original] = f
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" || len(found) != len(want) {
		t.Errorf("%d listed (-want +got):\n%s", len(found), diff)
	}
	if n, leftOut := conntrack.NewOlder(found, ports, 100).Len(); n != len(want) || leftOut != 0 {
		t.Errorf("%d are older and %d left out, want %d and none", n, leftOut, len(want))
	}
}

// redirect has connections to the port from of this host lead to its port to.
func redirect(t *testing.T, from, to uint16) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	match := lab.ToControlPort()
	match[len(match)-1].(*expr.Cmp).Data = binaryutil.BigEndian.PutUint16(from)
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match,
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
		&expr.Redir{RegisterProtoMin: 1},
	)})
	if err := nft.Flush(); err != nil {
		labtest.Unmet(t, "cannot redirect a port (CONFIG_NFT_REDIR): "+err.Error())
	}
}
