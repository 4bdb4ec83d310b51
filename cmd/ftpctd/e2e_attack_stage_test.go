package main_test

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/ftpparse"
)

// eachMode runs a test in the two modes that "auto" may choose, with the line that
// configures it.
func eachMode(t *testing.T, test func(t *testing.T, config string)) {
	t.Helper()
	for _, mode := range []string{"expect", "entry"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			test(t, fmt.Sprintf("admit = %q\n", mode))
		})
	}
}

// twoPorts configures a second control port.
const (
	twoPorts   = "ports = [21, 2121]\n"
	secondPort = 2121
)

// The two sides of a stage, and what nobody answers for on either.
var (
	insidePrefixes  = []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16"), netip.MustParsePrefix("fd08::/64")}
	outsidePrefixes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd09::/64")}

	victimIPv4, victimIPv6     = netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("fd08::1")
	attackerIPv4, attackerIPv6 = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
)

const (
	// secretPort is that of a service that the firewall admits nobody to.
	secretPort = 39632
	// clientPort is that of the client of a talk.
	clientPort = 50505
	// probePort is the source port of a probe, below those that kernels choose.
	probePort = 20202
)

// stage is a lab with a firewall between inside, which is the lab's client, and outside,
// its server, from which attacks come. Each has a wire, and a network whose hosts send
// nothing but what the test sends for them.
type stage struct {
	*lab.Lab
	inside, outside *lab.Host
	in, out         *lab.Wire
	atIn, atOut     *lab.Sniffer // what has come to them from the router
	firewall        *lab.Firewall

	table *nftables.Table
	chain *nftables.Chain
}

func newStage(t *testing.T) *stage {
	t.Helper()
	l := labtest.New(t, lab.Config{})
	s := &stage{Lab: l, inside: l.Client, outside: l.Server}
	open := func(h *lab.Host, prefixes []netip.Prefix) (*lab.Wire, *lab.Sniffer) {
		w, err := l.OpenWire(h, prefixes...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		return w, sniff(t, w)
	}
	s.in, s.atIn = open(s.inside, insidePrefixes)
	s.out, s.atOut = open(s.outside, outsidePrefixes)
	s.firewall = installDropFirewall(t, l.Router, lab.Forward)

	// Behind the last rule of the firewall, where only what it drops comes.
	nft := &nftables.Conn{NetNS: l.Router.NetNS()}
	s.table = &nftables.Table{Name: "lab", Family: nftables.TableFamilyINet}
	s.chain = &nftables.Chain{Name: lab.Forward.String(), Table: s.table}
	nft.AddRule(&nftables.Rule{Table: s.table, Chain: s.chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(probePort)},
		&expr.Counter{},
	}})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

func sniff(t *testing.T, w *lab.Wire) *lab.Sniffer {
	t.Helper()
	s, err := w.Sniff()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// victims are the victim as a client, and the attacker as its server.
var victims = []struct {
	family         string
	client, server netip.Addr
}{
	{"IPv4", victimIPv4, attackerIPv4},
	{"IPv6", victimIPv6, attackerIPv6},
}

// startWith starts the daemon with a control port, which the firewall admits.
func (s *stage) startWith(t *testing.T, config string, port uint16) {
	t.Helper()
	if port != lab.ControlPort {
		s.openPort(t, port)
		config += twoPorts
	}
	start(t, s.Router, config)
}

// openPort opens a port in the firewall, both ways.
func (s *stage) openPort(t *testing.T, port uint16) {
	t.Helper()
	nft := &nftables.Conn{NetNS: s.Router.NetNS()}
	exprs := lab.CtState(expr.CtStateBitNEW)
	exprs = append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	)
	nft.InsertRule(&nftables.Rule{Table: s.table, Chain: s.chain, Exprs: exprs})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
}

// rpFilter sets the reverse path filter of the router's links
// (Documentation/networking/ip-sysctl.rst).
func (s *stage) rpFilter(t *testing.T, value int) {
	t.Helper()
	for _, link := range []string{"all", "default", s.Client.Name(), s.Server.Name()} {
		sysctl(t, s.Router, "ipv4/conf/"+link+"/rp_filter", strconv.Itoa(value))
	}
}

// flushConntrack deletes all conntrack entries of the router, as their timeouts do
// sooner or later.
func (s *stage) flushConntrack(t *testing.T) {
	t.Helper()
	err := s.Router.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		t.Fatal(err)
	}
}

// probed returns the number of probes that the firewall has dropped.
func (s *stage) probed(t *testing.T) uint64 {
	t.Helper()
	rules, err := (&nftables.Conn{NetNS: s.Router.NetNS()}).GetRules(s.table, s.chain)
	if err != nil {
		t.Fatal(err)
	}
	last := rules[len(rules)-1].Exprs
	return last[len(last)-1].(*expr.Counter).Packets
}

// reachable sends a SYN to an endpoint and reports whether it arrives on the far wire.
// If not, the firewall has counted it.
func (s *stage) reachable(t *testing.T, from netip.Addr, to netip.AddrPort) bool {
	t.Helper()
	near, far := s.out, s.in
	if !s.isInside(to.Addr()) {
		near, far = s.in, s.out
	}
	seen := sniff(t, far)
	before := s.probed(t)
	syn := lab.Segment{Src: netip.AddrPortFrom(from, probePort), Dst: to, Seq: 77, Flags: lab.SYN}
	if err := near.Send(syn); err != nil {
		t.Fatal(err)
	}
	passed := false
	labtest.Eventually(t, fmt.Sprintf("a SYN from %s to %s passes the router or is dropped by its firewall", from, to), func() bool {
		_, passed = seen.Poll(func(got lab.Segment) bool { return got.Src == syn.Src && got.Dst == to })
		return passed || s.probed(t) > before
	})
	return passed
}

func (s *stage) isInside(addr netip.Addr) bool {
	return addr == s.inside.IPv4() || addr == s.inside.IPv6() ||
		insidePrefixes[0].Contains(addr) || insidePrefixes[1].Contains(addr)
}

// expectClosed fails the test if the firewall accepts a connection.
func (s *stage) expectClosed(t *testing.T, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	if s.reachable(t, from, to) {
		t.Errorf("the firewall lets %s in to %s", from, to)
	}
}

// side is an end of a talk. Its segments leave over a wire, with a legitimate source or
// not.
type side struct {
	wire *lab.Wire
	addr netip.AddrPort
	next uint32 // the sequence number of its next byte
	ttl  uint8  // 0 for the usual one
}

// talk is a TCP connection of which the test plays both ends. Each segment is sent
// when the one before has come across the router, and so the daemon has seen it.
type talk struct {
	stage          *stage
	ctx            context.Context
	client, server *side
}

// talk returns a connection from a client to a control port that has not begun.
func (s *stage) talk(ctx context.Context, client, server netip.AddrPort) *talk {
	wire := func(addr netip.Addr) *lab.Wire {
		if s.isInside(addr) {
			return s.in
		}
		return s.out
	}
	return &talk{
		stage: s, ctx: ctx,
		client: &side{wire: wire(client.Addr()), addr: client, next: 1000},
		server: &side{wire: wire(server.Addr()), addr: server, next: 500_000},
	}
}

// peer returns the other end.
func (k *talk) peer(from *side) *side {
	if from == k.client {
		return k.server
	}
	return k.client
}

// segment returns the next segment of an end.
func (k *talk) segment(from *side, flags lab.Flags, data string) lab.Segment {
	to := k.peer(from)
	s := lab.Segment{Src: from.addr, Dst: to.addr, Seq: from.next, Flags: flags, Data: []byte(data), TTL: from.ttl}
	if flags&lab.ACK != 0 {
		s.Ack = to.next
	}
	return s
}

// send sends a segment and does not wait.
func (k *talk) send(t *testing.T, from *side, s lab.Segment) {
	t.Helper()
	if err := from.wire.Send(s); err != nil {
		t.Fatal(err)
	}
}

// crossed waits until a segment has passed the router.
func (k *talk) crossed(t *testing.T, s lab.Segment) {
	t.Helper()
	sniffer := k.stage.atOut
	if k.stage.isInside(s.Dst.Addr()) {
		sniffer = k.stage.atIn
	}
	ctx, cancel := context.WithTimeout(k.ctx, labtest.Patience)
	defer cancel()
	_, err := sniffer.Wait(ctx, func(got lab.Segment) bool {
		return got.Src == s.Src && got.Dst == s.Dst && got.Seq == s.Seq && got.Flags == s.Flags && string(got.Data) == string(s.Data)
	})
	if err != nil {
		t.Fatalf("%s does not come across the router: %v", s, err)
	}
}

// deliver sends a segment and waits until it has passed the router.
func (k *talk) deliver(t *testing.T, from *side, s lab.Segment) {
	t.Helper()
	k.send(t, from, s)
	k.crossed(t, s)
}

// flags delivers the next segment of an end, without data.
func (k *talk) flags(t *testing.T, from *side, flags lab.Flags) {
	t.Helper()
	s := k.segment(from, flags, "")
	k.deliver(t, from, s)
	from.next = s.Next()
}

// say delivers data.
func (k *talk) say(t *testing.T, from *side, data string) {
	t.Helper()
	s := k.segment(from, lab.ACK|lab.PSH, data)
	k.deliver(t, from, s)
	from.next = s.Next()
}

// handshake opens the connection.
func (k *talk) handshake(t *testing.T) {
	t.Helper()
	k.flags(t, k.client, lab.SYN)
	k.flags(t, k.server, lab.SYN|lab.ACK)
	k.flags(t, k.client, lab.ACK)
}

// login greets and logs in.
func (k *talk) login(t *testing.T) {
	t.Helper()
	k.say(t, k.server, "220 hello\r\n")
	k.dialogue(t, "USER anonymous", "331 which password?")
	k.dialogue(t, "PASS lab@example.com", "230 logged in")
}

// dialogue is a command and its reply.
func (k *talk) dialogue(t *testing.T, command, reply string) {
	t.Helper()
	k.say(t, k.client, command+"\r\n")
	k.say(t, k.server, reply+"\r\n")
}

// lost is a line in single bytes that arrive out of order, with more gaps than a
// small buffer holds: every other byte, and then those between, backward.
func (k *talk) lost(t *testing.T, from *side, line string) {
	t.Helper()
	start := from.next
	for _, odd := range []int{1, 0} {
		for i := len(line) - 1; i >= 0; i-- {
			if i%2 != odd {
				continue
			}
			s := k.segment(from, lab.ACK|lab.PSH, line[i:i+1])
			s.Seq = start + uint32(i)
			k.deliver(t, from, s)
		}
	}
	from.next = start + uint32(len(line))
}

// announce returns the line of a client that announces its own endpoint.
func announce(ap netip.AddrPort) string {
	if ap.Addr().Is4() {
		return "PORT " + hostPort(ap)
	}
	return "EPRT " + string(ftpparse.EPRT.AppendEndpoint(nil, ap))
}

// post is the beginning of a request that a browser sends to any port that a page names.
const post = "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n"

// body is a whole session, as the content of a page or a file, that announces an
// endpoint.
func body(ap netip.AddrPort) string {
	return "USER anonymous\r\nPASS lab@example.com\r\n" + announce(ap) + "\r\n"
}

// masquerade continues a request with a whole session: the server greets, and the body
// follows, one line at a time, as the server's window allows.
func (k *talk) masquerade(t *testing.T, secret netip.AddrPort) {
	t.Helper()
	k.login(t)
	k.dialogue(t, announce(secret), "200 OK")
}

// TestAttackProbe makes sure that the other tests of attacks can fail: the endpoint
// that an honest session announces is reachable, and the next port is not.
func TestAttackProbe(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		client, server netip.Addr
	}{
		{name: "IPv4, client inside", client: victimIPv4, server: attackerIPv4},
		{name: "IPv6, client inside", client: victimIPv6, server: attackerIPv6},
		{name: "IPv4, client outside", client: attackerIPv4, server: victimIPv4},
		{name: "IPv6, client outside", client: attackerIPv6, server: victimIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				start(t, s.Router, config)
				k := s.talk(testContext(t), netip.AddrPortFrom(tt.client, clientPort), netip.AddrPortFrom(tt.server, lab.ControlPort))
				k.handshake(t)
				k.login(t)
				k.dialogue(t, announce(netip.AddrPortFrom(tt.client, secretPort)), "200 OK")
				s.expectClosed(t, tt.server, netip.AddrPortFrom(tt.client, secretPort+1))
				if !s.reachable(t, tt.server, netip.AddrPortFrom(tt.client, secretPort)) {
					t.Error("what an honest session announces is not reachable")
				}
			})
		})
	}
}
