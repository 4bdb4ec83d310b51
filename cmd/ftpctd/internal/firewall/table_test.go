package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

var carried = Config{Ports: []uint16{21, 2121}, Helper: "sane", QueueNum: 21, QueueCount: 1}

func install(t testing.TB, cfg Config) *Table {
	t.Helper()
	table, err := Install(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// recorder is a handler that notes what it is given.
type recorder struct {
	mu     sync.Mutex
	seen   map[string]int // by what the packet is
	before func(*packet.Packet) []byte
	errs   []error
}

func (r *recorder) Packet(p *packet.Packet) nfq.Verdict {
	words := []string{fmt.Sprintf("%d -> %d", p.Src.Port(), p.Dst.Port())}
	for _, f := range []struct {
		flag packet.Flags
		name string
	}{{packet.SYN, "SYN"}, {packet.FIN, "FIN"}, {packet.RST, "RST"}} {
		if p.Flags&f.flag != 0 {
			words = append(words, f.name)
		}
	}
	if len(p.Payload) > 0 {
		words = append(words, string(p.Payload))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[string]int)
	}
	r.seen[strings.Join(words, " ")]++
	if r.before == nil {
		return nfq.Verdict{}
	}
	return nfq.Verdict{Before: r.before(p)}
}

// Flush implements nfq.Handler.
func (*recorder) Flush() {}

func (r *recorder) Rejected(_ uint32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// run reads queue num until the end of the test, or until stop is called.
func run(t *testing.T, num uint16, h nfq.Handler) (q *nfq.Queue, stop func()) {
	t.Helper()
	q, err := nfq.Open(nfq.Config{Num: num, Length: 4096, ReadBuffer: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := q.Run(ctx, h); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return q, stop
}

// say sends a line from one end to the other.
func say(t *testing.T, from, to net.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(from, line); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, make([]byte, len(line))); err != nil {
		t.Fatal(err)
	}
}

// TestQueued holds that the packets of control connections that matter are
// queued, in both directions, and no others: neither ACKs without payload nor
// the packets of other connections.
func TestQueued(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			var r recorder
			_, stop := run(t, carried.QueueNum, &r)
			table := install(t, carried)
			if m := table.Mode(); m != "nft queue" && m != "xt NFQUEUE" {
				t.Errorf("mode %q", m)
			}
			want := make(map[string]bool)
			for _, port := range []string{"21", "2121", "2122"} {
				l := labtest.ListenNetns(t, net.JoinHostPort(tt.host, port))
				client, server := labtest.DialNetns(t, tt.host, l)
				say(t, server, client, "220 hello\r\n")
				say(t, client, server, "PASV\r\n")
				say(t, server, client, "227 no\r\n")
				_ = client.Close()
				if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("error %v at the end of the connection, want EOF", err)
				}
				_ = server.Close()
				if port == "2122" {
					continue
				}
				_, eph, _ := net.SplitHostPort(client.LocalAddr().String())
				for _, what := range []string{"%s -> %s PASV\r\n", "%s -> %s FIN"} {
					want[fmt.Sprintf(what, eph, port)] = true
				}
				for _, what := range []string{"%s -> %s SYN", "%s -> %s 220 hello\r\n", "%s -> %s 227 no\r\n", "%s -> %s FIN"} {
					want[fmt.Sprintf(what, port, eph)] = true
				}
			}
			stop()
			r.mu.Lock()
			defer r.mu.Unlock()
			got := make(map[string]bool)
			for what, n := range r.seen {
				if strings.HasSuffix(what, " RST") {
					continue // the answer to a FIN that came again, on a slow machine
				}
				got[what] = true
				if n < 2 { // as it leaves and as it comes in
					t.Errorf("%q was queued %d times, want 2 on lo", what, n)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("queued (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSkip holds that payload is queued no more once its connection has the label, or a
// mark with the bit, whatever else the mark has, but what ends the connection is.
func TestSkip(t *testing.T) {
	const bit, others = 0x100, 0x80000a01
	for _, tt := range []struct {
		name string
		skip func(conntrack.Tuple) []byte
	}{
		{"mark", func(t conntrack.Tuple) []byte { return ctnetlink.AppendMark(nil, 1, 0, t, bit, bit) }},
		{"label", func(t conntrack.Tuple) []byte { return ctnetlink.AppendUnread(nil, 1, 0, t, true) }},
		{"label that was taken off and set again", func(t conntrack.Tuple) []byte {
			b := ctnetlink.AppendUnread(nil, 1, 0, t, true)
			b = ctnetlink.AppendUnread(b, 1, 0, t, false)
			return ctnetlink.AppendUnread(b, 1, 0, t, true)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { testSkip(t, bit, others, tt.skip) })
	}
}

func testSkip(t *testing.T, bit, others uint32, skip func(conntrack.Tuple) []byte) {
	t.Helper()
	labtest.EnterNetns(t)
	var r recorder
	r.before = func(p *packet.Packet) []byte {
		master := conntrack.Tuple{Src: p.Src, Dst: p.Dst}
		switch string(p.Payload) {
		case "others":
			return ctnetlink.AppendMark(nil, 1, 0, master, others, 1<<32-1)
		case "skip":
			return skip(master)
		}
		return nil
	}
	_, stop := run(t, carried.QueueNum, &r)
	cfg := carried
	cfg.SkipMark = bit
	install(t, cfg)
	l := labtest.ListenNetns(t, "127.0.0.1:21")
	marked, server := labtest.DialNetns(t, "127.0.0.1", l)
	plain, plainServer := labtest.DialNetns(t, "127.0.0.1", l)
	for _, line := range []string{"others", "read", "skip", "unread"} {
		say(t, marked, server, line)
		say(t, server, marked, line)
	}
	say(t, plain, plainServer, "still read")
	_ = marked.Close()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("error %v at the end of the connection, want EOF", err)
	}
	stop()
	if len(r.errs) > 0 {
		t.Errorf("refused: %v", r.errs)
	}
	var got []string
	ends := false
	for what := range r.seen {
		words := strings.SplitN(what, " ", 4)
		switch {
		case len(words) < 4:
		case words[3] == "SYN":
		case words[3] == "FIN":
			ends = true
		default:
			got = append(got, words[3]+" to "+map[bool]string{true: "the server", false: "the client"}[words[2] == "21"])
		}
	}
	slices.Sort(got)
	want := []string{
		"others to the client", "others to the server",
		"read to the client", "read to the server",
		"skip to the server", // and marks the connection
		"still read to the server",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("queued (-want +got):\n%s", diff)
	}
	if !ends {
		t.Error("the end of the marked connection was not queued")
	}
}

// TestRelated takes the whole way: the table assigns the helper and queues a
// reply, the expectation goes out with its verdict, and the data connection,
// made the moment the reply arrives, is RELATED.
func TestRelated(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			data := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "0"))
			dport := uint16(data.Addr().(*net.TCPAddr).Port)
			var once sync.Once
			r := recorder{before: func(p *packet.Packet) (b []byte) {
				if strings.HasPrefix(string(p.Payload), "229") {
					once.Do(func() {
						b = ctnetlink.AppendExpect(nil, 1, &conntrack.Expectation{
							Master: conntrack.Tuple{Src: p.Dst, Dst: p.Src},
							Tuple:  conntrack.Tuple{Src: p.Dst, Dst: netip.AddrPortFrom(p.Src.Addr(), dport)},
						})
					})
				}
				return b
			}}
			_, stop := run(t, carried.QueueNum, &r)
			install(t, carried)
			related := countRelated(t)
			client, server := labtest.DialNetns(t, tt.host, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "2121")))

			c, err := ctnetlink.Dial()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 0 {
				t.Fatalf("%d RELATED packets before the reply, want none", n)
			}
			say(t, server, client, "229 (|||"+fmt.Sprint(dport)+"|)\r\n")
			if listed, err := c.Expectations(); err != nil || len(listed) != 1 || listed[0].Helper != "sane" {
				t.Fatalf("expected %+v, error %v; want one of the helper sane", listed, err)
			}
			labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 1 {
				t.Errorf("%d RELATED packets after the first data connection, want 1", n)
			}
			labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 1 {
				t.Errorf("%d RELATED packets after a second data connection, want 1", n)
			}
			stop()
			if len(r.errs) > 0 {
				t.Errorf("refused: %v", r.errs)
			}
		})
	}
}

// countRelated adds a table of its own that counts RELATED packets that come in,
// and returns the reader of the counter.
func countRelated(t *testing.T) func() uint64 {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	r := builder{nft: nft, table: nft.AddTable(newTable("test"))}
	chain := r.baseChain("input", nftables.ChainHookInput, 0)
	r.add(chain, ctState(expr.CtStateBitRELATED), []expr.Any{&expr.Counter{}})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() uint64 {
		rules, err := nft.GetRules(r.table, chain)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(rules[0].Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Counter); return ok })
		return rules[0].Exprs[i].(*expr.Counter).Packets
	}
}

// TestSeveralQueues holds that queues share the connections, and that both
// directions of one come to the same queue.
func TestSeveralQueues(t *testing.T) {
	labtest.EnterNetns(t)
	cfg := carried
	cfg.QueueCount = 3
	recorders := make([]recorder, cfg.QueueCount)
	var stops []func()
	for i := range recorders {
		_, stop := run(t, cfg.QueueNum+uint16(i), &recorders[i])
		stops = append(stops, stop)
	}
	install(t, cfg)
	l := labtest.ListenNetns(t, "127.0.0.1:21")
	// So many pairs of addresses that they do not all hash to fewer queues.
	for i := range 48 {
		client, server := labtest.DialNetns(t, fmt.Sprintf("127.0.1.%d", i+1), l)
		say(t, client, server, fmt.Sprintf("client %d", i))
		say(t, server, client, fmt.Sprintf("server %d", i))
	}
	for _, stop := range stops {
		stop()
	}
	ends := make(map[string][]int) // connection to queues
	for i := range recorders {
		n := 0
		for what := range recorders[i].seen {
			words := strings.Fields(what)
			if words[len(words)-1] == "SYN" {
				continue
			}
			n++
			connection := words[len(words)-1]
			if !slices.Contains(ends[connection], i) {
				ends[connection] = append(ends[connection], i)
			}
		}
		if n == 0 {
			t.Errorf("queue %d has no packets", i)
		}
	}
	for connection, queues := range ends {
		if len(queues) != 1 {
			t.Errorf("connection %s is in queues %v, want one", connection, queues)
		}
	}
	if len(ends) != 48 {
		t.Errorf("%d connections were seen, want 48", len(ends))
	}
}

// TestFailOpenWithoutReader holds that control connections live while no daemon runs.
func TestFailOpenWithoutReader(t *testing.T) {
	labtest.EnterNetns(t)
	install(t, carried)
	client, server := labtest.DialNetns(t, "127.0.0.1", labtest.ListenNetns(t, "127.0.0.1:21"))
	say(t, client, server, "PASV\r\n")
	say(t, server, client, "227\r\n")
}

// described is what the kernel says of the table.
type described struct {
	Chains   []string
	Ports    []uint16
	Helper   string
	Counters []string
}

func describe(t *testing.T) described {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	var d described
	chains, err := nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			t.Errorf("there is a chain %s in table %s", c.Name, c.Table.Name)
		}
		s := c.Name
		if c.Hooknum != nil {
			s += fmt.Sprintf(" hook %d priority %d", *c.Hooknum, *c.Priority)
		}
		d.Chains = append(d.Chains, s)
	}
	slices.Sort(d.Chains)
	d.Ports = portsOf(t, nft)
	objects, err := nft.GetNamedObjects(newTable(tableName))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		switch o := o.(*nftables.NamedObj); obj := o.Obj.(type) {
		case *expr.CtHelper:
			d.Helper = strings.TrimRight(obj.Name, "\x00")
		case *expr.Counter:
			d.Counters = append(d.Counters, o.Name)
		}
	}
	slices.Sort(d.Counters)
	return d
}

// portsOf reads the ports whose packets are queued: one in the rules, or several in a
// set.
func portsOf(t *testing.T, nft *nftables.Conn) (ports []uint16) {
	t.Helper()
	table := newTable(tableName)
	rules, err := nft.GetRules(table, &nftables.Chain{Table: table, Name: "queue-forward"})
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				if len(e.Data) == 2 {
					ports = append(ports, binary.BigEndian.Uint16(e.Data))
				}
			case *expr.Lookup:
				elements, err := nft.GetSetElements(&nftables.Set{Table: table, Name: e.SetName})
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range elements {
					ports = append(ports, binary.BigEndian.Uint16(e.Key))
				}
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// rules reads the rules of each chain, in order.
func rules(t *testing.T) map[string][][]expr.Any {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][][]expr.Any{}
	for _, c := range chains {
		list, err := nft.GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			all[c.Name] = append(all[c.Name], r.Exprs)
		}
	}
	return all
}

func exists(t *testing.T) bool {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	_, err = nft.ListTableOfFamily(tableName, nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	return err == nil
}

// TestLifecycle installs, replaces and removes.
func TestLifecycle(t *testing.T) {
	labtest.EnterNetns(t)
	queueChains := []string{
		"control",
		"control-arriving",
		"data",
		"data-arriving",
		"data-trusted",
		"queue-forward hook 2 priority -50",
		"queue-input hook 1 priority -50",
		"queue-output hook 3 priority -50",
	}
	if exists(t) {
		t.Fatal("the table is there before Install")
	}
	if err := RemoveStale(); err != nil {
		t.Fatalf("nothing to remove: %v", err)
	}

	install(t, carried) // as by a daemon that was killed
	want := described{
		Chains: append([]string{
			"assign",
			"assign-input hook 1 priority 200",
			"assign-postrouting hook 4 priority 200",
		}, queueChains...),
		Ports:    []uint16{21, 2121},
		Helper:   "sane",
		Counters: []string{"fast-open", "sane-request", "spoofed"},
	}
	if diff := cmp.Diff(want, describe(t)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}

	nosuch := carried
	nosuch.Ports, nosuch.Helper = []uint16{990}, "nosuch"
	_, err := Install(nosuch)
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOENT) || e.Missing != FeatureHelper || e.Helper != "nosuch" {
		t.Errorf("error %v, want an *Error of ENOENT that names the helper", err)
	}
	if diff := cmp.Diff(want, describe(t)); diff != "" {
		t.Errorf("table after a failed Install (-want +got):\n%s", diff)
	}

	plain := carried
	plain.Ports, plain.Helper = []uint16{990}, ""
	table := install(t, plain)
	if diff := cmp.Diff(described{Chains: queueChains, Ports: []uint16{990}, Counters: []string{"fast-open", "spoofed"}}, describe(t)); diff != "" {
		t.Errorf("table in place of the first (-want +got):\n%s", diff)
	}

	if err := table.Remove(); err != nil {
		t.Error(err)
	}
	if exists(t) {
		t.Error("the table is there after Remove")
	}
	table = install(t, plain)
	if err := RemoveStale(); err != nil {
		t.Error(err)
	}
	if exists(t) {
		t.Error("the table is there after RemoveStale")
	}
	if err := table.Remove(); err != nil {
		t.Errorf("somebody else has removed it: %v", err)
	}
}

// TestRestore holds that a table that somebody has removed is made again as it
// was, and left alone otherwise.
func TestRestore(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	restore := func(want bool) {
		t.Helper()
		if got, err := table.Restore(); got != want || err != nil {
			t.Errorf("restored: %t, %v; want %t", got, err, want)
		}
	}
	want, wantRules := describe(t), rules(t)
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	restore(false)
	for range 2 {
		if err := RemoveStale(); err != nil { // in another's name
			t.Fatal(err)
		}
		restore(true)
		if diff := cmp.Diff(want, describe(t)); diff != "" {
			t.Errorf("the table made again (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(wantRules, rules(t)); diff != "" {
			t.Errorf("its rules (-want +got):\n%s", diff)
		}
		if err := change(table, src, dst, 1024, time.Minute); err != nil {
			t.Error(err)
		}
		restore(false)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	restore(false)
	if exists(t) {
		t.Error("the table was made again after Remove")
	}
}

// TestHelperOfOneFamily holds that rules which could assign their helper to
// connections of one family alone are not installed.
func TestHelperOfOneFamily(t *testing.T) {
	labtest.EnterNetns(t)
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	const helper = "irc" // the kernel has it for IPv4 alone
	other := nft.AddTable(newTable("other"))
	nft.AddObj(&nftables.NamedObj{
		Table: other, Name: "object", Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: helper, L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_TCP},
	})
	if err := nft.Flush(); err != nil {
		labtest.Unmet(t, "the kernel has no helper irc: "+err.Error())
	}
	cfg := carried
	cfg.Helper = helper
	if _, err := Install(cfg); !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v, want %v", err, unix.ENOENT)
	}
}

// TestRemoveElsewhere holds that Remove finds the table's namespace again.
func TestRemoveElsewhere(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	done := make(chan error)
	go func() { done <- table.Remove() }() // on another thread
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if exists(t) {
		t.Error("the table is there after Remove")
	}
}

// TestUnknownHelper holds that nothing is left of an Install that failed.
func TestUnknownHelper(t *testing.T) {
	labtest.EnterNetns(t)
	cfg := carried
	cfg.Helper = "nosuch"
	if _, err := Install(cfg); err == nil {
		t.Fatal("there is a helper nosuch")
	}
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := nft.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) != 0 {
		t.Errorf("tables are left: %q", tables[0].Name)
	}
}

// TestUntracked holds that packets that conntrack does not follow are not
// queued: nothing could be expected on their behalf.
func TestUntracked(t *testing.T) {
	labtest.EnterNetns(t)
	var rec recorder
	q, _ := run(t, carried.QueueNum, &rec)
	install(t, carried)
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	r := builder{nft: nft, table: nft.AddTable(newTable("test"))}
	for _, chain := range []*nftables.Chain{
		r.baseChain("prerouting", nftables.ChainHookPrerouting, -300),
		r.baseChain("output", nftables.ChainHookOutput, -300),
	} {
		r.add(chain, []expr.Any{&expr.Notrack{}})
	}
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	client, server := labtest.DialNetns(t, "127.0.0.1", labtest.ListenNetns(t, "127.0.0.1:21"))
	say(t, client, server, "PASV\r\n")
	if n := q.Stats().Packets; n != 0 {
		t.Errorf("%d untracked packets were queued, want none", n)
	}
}

// TestMissingFeature holds that the probe of a feature that the kernel lacks fails.
func TestMissingFeature(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	queue := nftQueue(carried)
	if table.Mode() == "xt NFQUEUE" {
		queue = xtQueue(carried)
	}
	tests := []struct {
		name  string
		cfg   Config
		queue expr.Any
		want  Feature
	}{
		{"nothing", carried, queue, ""},
		{"helper", Config{Helper: "nosuch"}, queue, FeatureHelper},
		{"queue", carried, &expr.Target{Name: "NOSUCH", Rev: 3, Info: xtQueue(carried).(*expr.Target).Info}, FeatureQueue},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			if got := missingFeature(tt.cfg, tt.queue); got != tt.want {
				t.Errorf("missing feature %q, want %q", got, tt.want)
			}
			if is := exists(t); is {
				t.Error("the probe left a table")
			}
		})
	}
}

// TestNoPrivilege drops CAP_NET_ADMIN on the test's thread, which is thrown away.
func TestNoPrivilege(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	_, installErr := Install(carried)
	_, restoreErr := table.Restore()
	for name, err := range map[string]error{"install": installErr, "remove": RemoveStale(), "list": restoreErr} {
		if !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: error %v, want os.ErrPermission", name, err)
		}
	}
}
