package main_test

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// queued returns how many packets a host has queued for its daemon.
func queued(t *testing.T, h *lab.Host) uint64 {
	t.Helper()
	const idSequence = 7 // of the fields that nfnetlink_queue.c shows
	text := netFile(t, h, "netfilter/nfnetlink_queue")
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > idSequence && fields[0] == "21" {
			n, err := strconv.ParseUint(fields[idSequence], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no queue 21: %s", text)
	return 0
}

// marks sets a mark on the connections that a host forwards, as an administrator may,
// and returns the reader of a counter of packets whose connection has another mark.
func marks(t *testing.T, h *lab.Host, first, counted uint32) func() (uint64, error) {
	t.Helper()
	nft := &nftables.Conn{NetNS: h.NetNS()}
	table := nft.AddTable(&nftables.Table{Name: "marks", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{
		Table: table, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(
		lab.CtState(expr.CtStateBitNEW),
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(first)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	)})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(counted)},
		&expr.Counter{},
	}})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() (uint64, error) {
		rules, err := nft.GetRules(table, chain)
		if err != nil {
			return 0, err
		}
		return rules[1].Exprs[2].(*expr.Counter).Packets, nil
	}
}

// TestSkipMark makes sure that the packets of skipped sessions are no longer queued,
// except those that end the session.
func TestSkipMark(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	installDropFirewall(t, l.Router, lab.Forward)
	script{"AUTH": "234 go", "GET": "500 what?"}.serve(ctx, t, l.Server)
	const bit, others = 0x100, 0x80000a01
	marked := marks(t, l.Router, others, others|bit)
	skip := fmt.Sprintf("[queue]\nskip_mark = %#x\n", bit)
	for _, tt := range []struct {
		name, config, line string
		log                string
		skipped, marked    bool
	}{
		{name: "FTP", config: skip + "skip_tls = true\n", line: "NOOP", log: "opened"},
		{name: "no FTP", config: skip, line: "GET / HTTP/1.1", log: "control connection skipped", skipped: true, marked: true},
		{name: "no FTP, entries", config: "admit = \"entry\"\n" + skip, line: "GET / HTTP/1.1", log: "control connection skipped", skipped: true, marked: true},
		{name: "no FTP, no mark", line: "GET / HTTP/1.1", log: "control connection skipped", skipped: true}, // but a label
		{name: "TLS", config: skip + "skip_tls = true\n", line: "AUTH TLS", log: "switched to TLS", skipped: true, marked: true},
		{name: "TLS that may return", config: skip, line: "AUTH TLS", log: "switched to TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := start(t, l.Router, tt.config)
			c := connect(ctx, t, l)
			c.expectReply(t, 220)
			c.command(t, 0, tt.line)
			d.expectLog(t, tt.log)
			packets, withBit := queued(t, l.Router), mustRead(t, marked)
			const lines = 20
			for range lines {
				c.command(t, 200, "SYST")
			}
			got := queued(t, l.Router) - packets
			if tt.skipped && got != 0 || !tt.skipped && got < 2*lines {
				t.Errorf("%d packets queued for %d lines and replies, skipped %t", got, lines, tt.skipped)
			}
			if n := mustRead(t, marked) - withBit; (n != 0) != tt.marked {
				t.Errorf("%d packets of a connection with the mark %#x, marked %t", n, uint32(others|bit), tt.marked)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			d.expectLog(t, "control connection closed")
			if n := d.log.count("level=WARN"); n != 0 {
				t.Errorf("%d warnings in the log", n)
			}
		})
	}
}

// TestSkippedPortsAgain is a session after a connection that was not FTP, from the same
// port. The server reset the first one, so that conntrack uses its entry, with its mark,
// for the second: the daemon must read it.
func TestSkippedPortsAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	d := start(t, l.Router, "[queue]\nskip_mark = 1\n")
	control := labtest.Listen(ctx, t, l.Server, netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort))
	data := netip.AddrPortFrom(l.Server.IPv4(), 39632)
	listen(ctx, t, l.Server, data)

	first := connect(ctx, t, l)
	conn, err := control.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.PrintfLine("GET / HTTP/1.1"); err != nil {
		t.Fatal(err)
	}
	d.expectLog(t, "control connection skipped")
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // to be closed by a RST
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.ReadLine(); err == nil {
		t.Fatal("the connection was not broken off")
	}
	d.expectLog(t, "control connection closed")
	_ = first.Close()

	if err := control.Close(); err != nil {
		t.Fatal(err)
	}
	script{"PASV": "227 (" + hostPort(data) + ")"}.serve(ctx, t, l.Server)
	second := connectFrom(ctx, t, l, first.addr)
	second.expectReply(t, 220)
	second.command(t, 331, "USER anonymous")
	second.command(t, 230, "PASS lab@example.com")
	second.command(t, 227, "PASV")
	expectConnect(ctx, t, l.Client, netip.AddrPort{}, data)
	if got := mustRead(t, fw.Related); got != 1 {
		t.Errorf("%d related packets for 1 data connection", got)
	}
}

// TestSkippedTLSEnds closes the passive ports of a TLS session as soon as it ends,
// although its packets are skipped.
func TestSkippedTLSEnds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	d := start(t, l.Router, "admit = \"entry\"\n[passive]\ntls_ports = \"30000-31000\"\n[queue]\nskip_mark = 1\nskip_tls = true\n")
	script{"AUTH": "234 go"}.serve(ctx, t, l.Server)
	inside := netip.AddrPortFrom(l.Server.IPv4(), 31000)
	listen(ctx, t, l.Server, inside)
	for i, end := range []struct {
		name string
		end  func(*net.TCPConn) error
	}{
		{"FIN", func(*net.TCPConn) error { return nil }},
		{"RST", func(c *net.TCPConn) error { return c.SetLinger(0) }},
	} {
		t.Run(end.name, func(t *testing.T) {
			c := connect(ctx, t, l)
			c.expectReply(t, 220)
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, inside)
			c.command(t, 234, "AUTH TLS")
			for range 10 {
				c.command(t, 200, "unread")
			}
			expectConnect(ctx, t, l.Client, netip.AddrPort{}, inside)
			if err := end.end(c.tcp); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			labtest.Eventually(t, "the end is logged", func() bool { return d.log.count("control connection closed") == i+1 })
			expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, inside)
		})
	}
}
