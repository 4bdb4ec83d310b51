package event

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	port  = Kind{Event: "reject", Reason: "low-port"}
	login = Kind{Event: "reject", Reason: "not-logged-in"}
	alice = netip.MustParseAddr("192.0.2.1")
	bob   = netip.MustParseAddr("192.0.2.2")
)

// newLimiter makes a Limiter in which the clients of these tests have buckets of
// their own.
func newLimiter() *Limiter {
	l := NewLimiter()
	l.seed = 0
	return l
}

func TestAllow(t *testing.T) {
	type burst struct {
		at     time.Duration // after start
		kind   Kind
		client string
		lines  int
		passed int
	}
	for _, tt := range []struct {
		name   string
		bursts []burst
		want   []Summary // at the end
	}{
		{"few lines", []burst{
			{kind: port, client: "192.0.2.1", lines: clientBurst, passed: clientBurst},
		}, nil},
		{"one client floods", []burst{
			{kind: port, client: "192.0.2.1", lines: 1000, passed: clientBurst},
			{kind: port, client: "192.0.2.2", lines: 3, passed: 3},
		}, []Summary{{port, 995, alice}}},
		{"its other lines pass", []burst{
			{kind: port, client: "192.0.2.1", lines: 1000, passed: clientBurst},
			{kind: login, client: "192.0.2.1", lines: 3, passed: 3},
		}, []Summary{{port, 995, alice}}},
		{"it goes on", []burst{
			{kind: port, client: "192.0.2.1", lines: 1000, passed: clientBurst},
			{at: clientEvery - 1, kind: port, client: "192.0.2.1", lines: 10},
			{at: clientEvery, kind: port, client: "192.0.2.1", lines: 10, passed: 1},
			{at: 3*clientEvery + 1, kind: port, client: "192.0.2.1", lines: 10, passed: 2},
		}, []Summary{{port, 1022, alice}}},
		{"it was silent", []burst{
			{kind: port, client: "192.0.2.1", lines: 1000, passed: clientBurst},
			{at: time.Hour, kind: port, client: "192.0.2.1", lines: 1000, passed: clientBurst},
		}, []Summary{{port, 1990, alice}}},
		{"the clock is set back", []burst{
			{at: time.Hour, kind: port, client: "192.0.2.1", lines: 10, passed: clientBurst},
			{kind: port, client: "192.0.2.1", lines: 10, passed: clientBurst},
			{at: clientEvery, kind: port, client: "192.0.2.1", lines: 10, passed: 1},
		}, []Summary{{port, 19, alice}}},
		{"mapped into IPv6", []burst{
			{kind: port, client: "192.0.2.1", lines: 10, passed: clientBurst},
			{kind: port, client: "::ffff:192.0.2.1", lines: 10},
		}, []Summary{{port, 15, alice}}},
		{"addresses of one IPv6 network", []burst{
			{kind: port, client: "2001:db8::1", lines: 10, passed: clientBurst},
			{kind: port, client: "2001:db8::2", lines: 10},
			{kind: port, client: "2001:db8:0:1::1", lines: 6, passed: clientBurst},
		}, []Summary{{port, 16, netip.MustParseAddr("2001:db8::")}}},
		{"no majority", []burst{
			{kind: port, client: "192.0.2.1", lines: 10, passed: clientBurst},
			{kind: port, client: "192.0.2.2", lines: 10, passed: clientBurst},
		}, []Summary{{port, 10, netip.Addr{}}}},
		{"of no client", []burst{
			{kind: port, lines: 10, passed: clientBurst},
		}, []Summary{{port, 5, netip.Addr{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLimiter()
			for _, b := range tt.bursts {
				client, passed := netip.Addr{}, 0
				if b.client != "" {
					client = netip.MustParseAddr(b.client)
				}
				for range b.lines {
					if l.Allow(start.Add(b.at), b.kind, client) {
						passed++
					}
				}
				if passed != b.passed {
					t.Errorf("%d of %d lines of %v about %q pass at %v, want %d", passed, b.lines, b.kind, b.client, b.at, b.passed)
				}
			}
			if diff := gocmp.Diff(tt.want, l.Rest(start), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("summaries (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManyClients has an attacker use one address after the other: the bucket of
// the kind bounds what it can have logged, and the table does not grow.
func TestManyClients(t *testing.T) {
	l := NewLimiter()
	const clients, seconds = 100_000, 100
	passed := 0
	for i := range uint32(clients) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], i)
		if l.Allow(start.Add(time.Duration(i)*seconds*time.Second/clients), port, netip.AddrFrom4(b)) {
			passed++
		}
	}
	// Buckets are shared: by their own they would let thousands pass.
	if most := kindBurst + seconds; passed < most*9/10 || passed > most {
		t.Errorf("%d lines of %d clients in %d s, want about %d", passed, clients, seconds, most)
	}
	if n := l.Rest(start)[0].Lines; n != uint64(clients-passed) {
		t.Errorf("%d lines suppressed, want %d", n, clients-passed)
	}
	if !l.Allow(start.Add(seconds*time.Second), login, alice) {
		t.Error("a line of another kind does not pass")
	}
}

func TestSummaries(t *testing.T) {
	l := newLimiter()
	flood := func(at time.Duration, k Kind, client netip.Addr, n int) {
		for range n {
			l.Allow(start.Add(at), k, client)
		}
	}
	summaries := func(at time.Duration, want ...Summary) {
		t.Helper()
		got := l.Summaries(start.Add(at))
		slices.SortFunc(got, func(a, b Summary) int { return cmp.Compare(a.Kind.Reason, b.Kind.Reason) })
		if diff := gocmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", at, diff)
		}
	}
	summaries(0)
	flood(0, port, alice, clientBurst)
	summaries(0)
	flood(0, port, alice, 10)
	flood(0, login, bob, clientBurst+1)
	summaries(0, Summary{port, 10, alice}, Summary{login, 1, bob})
	flood(time.Second, port, alice, 2)
	flood(time.Second, port, bob, clientBurst+7)
	summaries(time.Second)
	summaries(summaryEvery - 1)
	summaries(summaryEvery, Summary{port, 9, bob})
	summaries(time.Hour)
	flood(time.Hour, port, alice, clientBurst+1)
	summaries(0, Summary{port, 1, alice}) // the clock was set back
}

func TestAllowAllocates(t *testing.T) {
	l := NewLimiter()
	for _, client := range []string{"192.0.2.1", "2001:db8::1"} {
		a := netip.MustParseAddr(client)
		l.Allow(start, port, a)
		if n := testing.AllocsPerRun(100, func() { l.Allow(start, port, a) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", client, n)
		}
	}
}

func BenchmarkSuppressed(b *testing.B) {
	l := NewLimiter()
	b.ReportAllocs()
	for b.Loop() {
		l.Allow(start, port, alice)
	}
}
