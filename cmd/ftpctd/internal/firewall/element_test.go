package firewall

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq/packet"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Golden messages: hexadecimal, with a comment after each "#". The headers of
// netlink and of attributes are in the byte order of the host; these dumps are
// of a little-endian one.
const (
	addExpected4 = `
58000000 0c0a 0104 00000000 00000000 # nlmsghdr: 88 bytes, NEWSETELEM, REQUEST|CREATE
01 00 0000                           # nfgenmsg: NFPROTO_INET, version 0, res_id 0
0b00 0100 66747063746400 00          # NFTA_SET_ELEM_LIST_TABLE "ftpctd"
0e00 0200 65787065637465643400 0000  # NFTA_SET_ELEM_LIST_SET "expected4"
2800 0380                            # NFTA_SET_ELEM_LIST_ELEMENTS
  2400 0180                          #   NFTA_LIST_ELEM
    1400 0180                        #     NFTA_SET_ELEM_KEY
      1000 0100                      #       NFTA_DATA_VALUE
        c0000201 cb007101 7a08 0000  #         192.0.2.1 . 203.0.113.1 . 31240
    0c00 0400 0000000000007530       #     NFTA_SET_ELEM_TIMEOUT 30000 ms`

	deleteExpected6 = `
64000000 0e0a 0100 00000000 00000000 # nlmsghdr: 100 bytes, DELSETELEM, REQUEST
01 00 0000
0b00 0100 66747063746400 00
0e00 0200 65787065637465643600 0000  # "expected6"
3400 0380
  3000 0180
    2c00 0180
      2800 0100
        fd000000000000000000000000000002
        fd000000000000000000000000000001
        7a08 0000`

	addOpaque4 = `
50000000 0c0a 0104 00000000 00000000 # nlmsghdr: 80 bytes
01 00 0000
0b00 0100 66747063746400 00
0c00 0200 6f70617175653400           # "opaque4"
2400 0380
  2000 0180
    1000 0180
      0c00 0100
        c0000201 cb007101
    0c00 0400 0000000000000001       # no less than a millisecond`
)

func TestElementMessages(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the golden messages are of a little-endian host")
	}
	tests := []struct {
		name   string
		msg    uint16
		change Change
		want   string
	}{
		{"add expected, IPv4", unix.NFT_MSG_NEWSETELEM, Change{Src: addr("192.0.2.1"), Dst: addr("203.0.113.1"), Port: 31240, Timeout: 30 * time.Second}, addExpected4},
		{"add expected, IPv4 spelled as IPv6", unix.NFT_MSG_NEWSETELEM, Change{Src: addr("::ffff:192.0.2.1"), Dst: addr("::ffff:203.0.113.1"), Port: 31240, Timeout: 30 * time.Second}, addExpected4},
		{"delete expected, IPv6", unix.NFT_MSG_DELSETELEM, Change{Src: addr("fd00::2"), Dst: addr("fd00::1"), Port: 31240}, deleteExpected6},
		{"add opaque, IPv4, no time", unix.NFT_MSG_NEWSETELEM, Change{Src: addr("192.0.2.1"), Dst: addr("203.0.113.1")}, addOpaque4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := appendElement(nil, tt.msg, &tt.change)
			if diff := cmp.Diff(hex.Dump(labtest.ParseHex(t, tt.want)), hex.Dump(got)); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// change makes one change.
func change(t *Table, src, dst netip.Addr, port uint16, timeout time.Duration) error {
	return t.Apply([]Change{{Src: src, Dst: dst, Port: port, Timeout: timeout}})
}

// timeouts returns the elements of a set, keys in hexadecimal, with what is left
// of their time.
func timeouts(t *testing.T, set string) map[string]time.Duration {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	s, err := nft.GetSetByName(newTable(tableName), set)
	if err != nil {
		t.Fatal(err)
	}
	elements, err := nft.GetSetElements(s)
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[string]time.Duration)
	for _, e := range elements {
		left[hex.EncodeToString(e.Key)] = e.Expires
	}
	return left
}

// TestManyErrors makes changes to a table that is gone, whose errors the receive buffer
// does not hold: none of them is taken for an error of what comes after.
func TestManyErrors(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	if err := RemoveStale(); err != nil {
		t.Fatal(err)
	}
	changes := make([]Change, maxChanges)
	for i := range changes {
		changes[i] = Change{Src: addr("192.0.2.1"), Dst: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Port: 31240, Timeout: time.Minute}
	}
	if err := table.Apply(changes); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without the table: %v, want %v", err, unix.ENOENT)
	}
	if _, err := table.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := table.Apply(changes[:1]); err != nil {
		t.Errorf("with the table: %v", err)
	}
}

// TestElements takes an element of every set through its life.
func TestElements(t *testing.T) {
	const v6 = "fd000000000000000000000000000002" + "fd000000000000000000000000000001"
	tests := []struct {
		set, src, dst string
		port          uint16 // 0: opaque
		key           string
	}{
		{"expected4", "192.0.2.1", "203.0.113.1", 31240, "c0000201" + "cb007101" + "7a080000"},
		{"expected6", "fd00::2", "fd00::1", 31240, v6 + "7a080000"},
		{"opaque4", "192.0.2.1", "203.0.113.1", 0, "c0000201" + "cb007101"},
		{"opaque6", "fd00::2", "fd00::1", 0, v6},
	}
	for _, tt := range tests {
		t.Run(tt.set, func(t *testing.T) {
			labtest.EnterNetns(t)
			table := install(t, carried)
			src, dst := addr(tt.src), addr(tt.dst)
			changes := make([]Change, 1)
			add := func(timeout time.Duration) error {
				changes[0] = Change{Src: src, Dst: dst, Port: tt.port, Timeout: timeout}
				return table.Apply(changes)
			}
			remove := func() error { return add(0) }
			do := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			left := func() time.Duration {
				t.Helper()
				all := timeouts(t, tt.set)
				if _, ok := all[tt.key]; !ok && len(all) > 0 || len(all) > 1 {
					t.Fatalf("elements %v, want only %s", all, tt.key)
				}
				return all[tt.key]
			}

			do("remove what is not there", remove())
			do("add", add(time.Hour))
			if d := left(); d <= 59*time.Minute || d > time.Hour {
				t.Errorf("%v left, want 1h", d)
			}
			do("add with less time", add(time.Minute))
			if d := left(); d <= 50*time.Second || d > time.Minute {
				t.Errorf("%v left, want 1m", d)
			}
			do("add with more time", add(time.Hour))
			if d := left(); d <= 59*time.Minute || d > time.Hour {
				t.Errorf("%v left, want 1h", d)
			}
			do("remove", remove())
			if d := left(); d != 0 {
				t.Errorf("%v left, want no element", d)
			}

			do("add for a moment", add(50*time.Millisecond))
			for deadline := time.Now().Add(10 * time.Second); left() != 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the element's time does not run out")
				}
			}
			do("add again", add(time.Hour))
			do("remove again", remove())
			if n := testing.AllocsPerRun(10, func() { do("add", add(time.Minute)); do("remove", remove()) }); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}

			do("add", add(time.Hour))
			install(t, carried)
			if d := left(); d != 0 {
				t.Errorf("%v left in the table that took the place, want no element", d)
			}
			do("add to the table that took the place", add(time.Hour))
			do("remove the table by another hand", RemoveStale())
			err := add(time.Hour)
			if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.ENOENT) || e.Op != OpAdd {
				t.Errorf("error %v without the table, want an *Error of ENOENT", err)
			}
			do("remove without the table", remove())
			do("remove the table", table.Remove())
			if err := add(time.Hour); !errors.Is(err, unix.EBADF) {
				t.Errorf("error %v after Remove, want EBADF", err)
			}
			do("remove after Remove", remove())
		})
	}
}

func TestElementFamilies(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	for _, tt := range []struct {
		name     string
		src, dst netip.Addr
	}{
		{"IPv4 to IPv6", addr("192.0.2.1"), addr("fd00::1")},
		{"IPv6 to IPv4", addr("fd00::1"), addr("192.0.2.1")},
		{"none", netip.Addr{}, netip.Addr{}},
	} {
		for _, err := range []error{change(table, tt.src, tt.dst, 1, time.Minute), change(table, tt.src, tt.dst, 0, 0)} {
			if _, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, errFamilies) {
				t.Errorf("%s: error %v, want an *Error of errFamilies", tt.name, err)
			}
		}
	}
}

// TestElementsConcurrently holds that every call gets its own answer.
func TestElementsConcurrently(t *testing.T) {
	labtest.EnterNetns(t)
	table := install(t, carried)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 100 {
				if err := change(table, addr("192.0.2.1"), addr("203.0.113.1"), uint16(i%2), time.Minute); err != nil {
					t.Error(err)
				}
				if err := change(table, addr("192.0.2.1"), addr("203.0.113.1"), uint16(i%2), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := timeouts(t, "expected4"); len(left) != 0 {
		t.Errorf("elements %v are left", left)
	}
}

// TestDataQueued holds that of data connections the SYN of those that are in the
// sets is queued, and nothing else.
func TestDataQueued(t *testing.T) {
	for _, tt := range []struct{ name, client, other, server string }{
		{"IPv4", "127.0.0.2", "127.0.0.3", "127.0.0.1"},
		{"IPv6", "::2", "::3", "::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			if tt.name == "IPv6" {
				addLoopback(t, tt.client)
				addLoopback(t, tt.other)
			}
			// The kernel chooses the ports, so the range is made to fit.
			ports := []net.Listener{labtest.ListenNetns(t, net.JoinHostPort(tt.server, "0")), labtest.ListenNetns(t, net.JoinHostPort(tt.server, "0")), labtest.ListenNetns(t, net.JoinHostPort(tt.server, "0"))}
			slices.SortFunc(ports, func(a, b net.Listener) int { return int(portOf(a)) - int(portOf(b)) })
			below, within, above := ports[0], ports[1], ports[2]
			cfg := Config{Ports: []uint16{21}, QueueNum: 21, QueueCount: 1, TLSPorts: conntrack.PortRange{Min: portOf(within), Max: portOf(within)}}
			var r recorder
			_, stop := run(t, cfg.QueueNum, &r)
			table := install(t, cfg)

			var want []string
			try := func(client string, l net.Listener, queued bool) {
				t.Helper()
				c, s := labtest.DialNetns(t, client, l)
				say(t, c, s, "data")
				say(t, s, c, "more")
				_ = c.Close()
				_ = s.Close()
				if queued {
					want = append(want, fmt.Sprintf("%d -> %d SYN", c.LocalAddr().(*net.TCPAddr).Port, portOf(l)))
				}
			}
			do := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			client, server := addr(tt.client), addr(tt.server)
			try(tt.client, below, false)
			do(change(table, client, server, portOf(below), time.Minute))
			try(tt.client, below, true)
			try(tt.other, below, false)
			try(tt.client, within, false)
			try(tt.client, above, false)
			do(change(table, client, server, portOf(below), 0))
			try(tt.client, below, false)

			do(change(table, client, server, 0, time.Minute))
			try(tt.client, below, false)
			try(tt.client, within, true)
			try(tt.client, above, false)
			try(tt.other, within, false)
			do(change(table, client, server, 0, 0))
			try(tt.client, within, false)

			stop()
			r.mu.Lock()
			defer r.mu.Unlock()
			got := make([]string, 0, len(r.seen))
			for what := range r.seen {
				got = append(got, what)
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("queued (-want +got):\n%s", diff)
			}
		})
	}
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// TestEntry takes the whole way without a helper: the SYN of an expected data
// connection is queued ahead of conntrack, its entry goes out with its verdict,
// and it is RELATED.
func TestEntry(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			cfg := Config{Ports: []uint16{21}, QueueNum: 21, QueueCount: 1}
			data := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "0"))
			var master conntrack.Tuple
			var once sync.Once
			r := recorder{before: func(p *packet.Packet) (b []byte) {
				if p.Dst.Port() == portOf(data) {
					once.Do(func() {
						b = ctnetlink.AppendEntry(nil, 1, conntrack.Tuple{Src: p.Src, Dst: p.Dst}, master)
					})
				}
				return b
			}}
			_, stop := run(t, cfg.QueueNum, &r)
			table := install(t, cfg)
			related := countRelated(t)
			client, server := labtest.DialNetns(t, tt.host, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21")))
			r.mu.Lock() // before runs with it
			master = conntrack.Tuple{
				Src: client.LocalAddr().(*net.TCPAddr).AddrPort(),
				Dst: client.RemoteAddr().(*net.TCPAddr).AddrPort(),
			}
			r.mu.Unlock()
			say(t, server, client, "220 hello\r\n")

			labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 0 {
				t.Fatalf("%d RELATED packets before anything is expected, want none", n)
			}
			if err := change(table, master.Src.Addr(), master.Dst.Addr(), portOf(data), time.Minute); err != nil {
				t.Fatal(err)
			}
			c, s := labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 1 {
				t.Errorf("%d RELATED packets of the data connection, want 1", n)
			}
			say(t, c, s, strings.Repeat("data", 1000))
			say(t, s, c, strings.Repeat("more", 1000))
			if n := related(); n != 1 {
				t.Errorf("%d RELATED packets after the data, want 1", n)
			}
			labtest.DialNetns(t, tt.host, data)
			if n := related(); n != 1 {
				t.Errorf("%d RELATED packets after another data connection, want 1", n)
			}
			stop()
			if len(r.errs) > 0 {
				t.Errorf("refused: %v", r.errs)
			}
		})
	}
}

// BenchmarkElement is what a held packet waits for.
func BenchmarkElement(b *testing.B) {
	labtest.EnterNetns(b)
	table, err := Install(carried)
	if err != nil {
		b.Fatal(err)
	}
	src, dst := addr("192.0.2.1"), addr("203.0.113.1")
	do := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Run("add and remove", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(change(table, src, dst, 31240, time.Minute))
			do(change(table, src, dst, 31240, 0))
		}
	})
	b.Run("remove what is not there", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(change(table, src, dst, 31241, 0))
		}
	})
	b.Run("add anew", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(change(table, src, dst, 31241, time.Minute))
		}
	})
}
