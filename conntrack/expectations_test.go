package conntrack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/nfq/packet"
)

// TestConflict announces the same endpoint of a server on two control connections of one
// client.
func TestConflict(t *testing.T) {
	tr := New(testConfig())
	first, second := newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")
	announce := func(w *wire) Decision {
		w.c("PASV\r\n")
		return w.s("227 (198,51,100,20,122,8)\r\n")
	}
	first.login()
	second.login()
	if d := announce(first); d.Conflict {
		t.Error("the first conflicts")
	}
	d := announce(second)
	if !d.Conflict || len(d.Expect) != 1 || len(d.Withdraw) != 0 {
		t.Fatalf("the second: %+v, want a conflict", d)
	}
	x := d.Expect[0]

	t.Run("the first goes before the kernel has the second", func(t *testing.T) {
		d := first.send(first.server, first.client, first.sseq, 0, packet.RST, "")
		if len(d.Withdraw) != 1 {
			t.Errorf("%+v, want a withdrawal: the place is the first's", d)
		}
		if !tr.Confirm(&x) {
			t.Error("the second is gone")
		}
		if d := second.send(second.server, second.client, second.sseq, 0, packet.RST, ""); len(d.Withdraw) != 1 {
			t.Errorf("%+v, want the second's withdrawal", d)
		}
		if tr.Confirm(&x) {
			t.Error("withdrawn, and yet wanted")
		}
	})

	tr = New(testConfig())
	first, second = newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")
	first.login()
	second.login()
	announce(first)
	announce(second)
	t.Run("the first goes after the kernel has the second", func(t *testing.T) {
		if !tr.Confirm(&x) {
			t.Fatal("the second is gone")
		}
		if d := first.send(first.server, first.client, first.sseq, 0, packet.RST, ""); len(d.Withdraw) != 0 {
			t.Errorf("%+v, want nothing: the place is the second's", d)
		}
	})
	t.Run("rejected", func(t *testing.T) {
		tr.Reject(time.Unix(1001, 0), &x, Clash)
		if left := standing(tr); left != nil {
			t.Errorf("%v left", left)
		}
	})
}

// TestSharedTuple announces the same endpoint on two control connections with Config.Shared:
// it is withdrawn with the last one that has not used it.
func TestSharedTuple(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.0.2.10:50000"), netip.MustParseAddrPort("198.51.100.20:31240")
	end := func(w *wire) Decision { return w.send(w.server, w.client, w.sseq, 0, packet.RST, "") }
	again := func(w *wire) Decision {
		w.c("PASV\r\n")
		return w.s("227 (198,51,100,20,122,8)\r\n")
	}
	use := func(w *wire) Decision {
		if _, ok := w.t.Consume(src, dst); !ok {
			panic("nothing to use")
		}
		return Decision{}
	}
	type step struct {
		who       int
		play      func(w *wire) Decision
		withdrawn int
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"the first ends first", []step{{0, end, 0}, {1, end, 1}}},
		{"the second ends first", []step{{1, end, 0}, {0, end, 1}}},
		{"the first is used", []step{{0, use, 0}, {0, end, 0}, {1, end, 1}}},
		{"the first is used, and the second ends first", []step{{0, use, 0}, {1, end, 1}, {0, end, 0}}},
		{"the first announces it again", []step{{0, again, 0}, {1, end, 0}, {0, end, 1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Shared = true
			tr := New(cfg)
			wires := [2]*wire{newWire(tr), newWire(tr)}
			wires[1].client = netip.MustParseAddrPort("192.0.2.10:40001")
			for i, w := range wires {
				w.login()
				if d := again(w); d.Conflict || len(d.Expect) != 1 || len(d.Withdraw) != 0 {
					t.Errorf("announced by %d: %+v, want an expectation that nobody contests", i, d)
				}
			}
			for i, s := range tt.steps {
				if d := s.play(wires[s.who]); len(d.Withdraw) != s.withdrawn {
					t.Errorf("step %d: withdrawn %+v, want %d", i, d.Withdraw, s.withdrawn)
				}
				checkBooks(t, tr)
			}
		})
	}
}

func TestConsumeExpectation(t *testing.T) {
	tr := New(testConfig())
	w := newWire(tr)
	w.login()
	w.c("PASV\r\n")
	w.s("227 (198,51,100,20,122,8)\r\n")
	src, dst := netip.MustParseAddrPort("192.0.2.10:50000"), netip.MustParseAddrPort("198.51.100.20:31240")
	for _, other := range [][2]string{
		{"192.0.2.11:50000", "198.51.100.20:31240"}, // another client
		{"192.0.2.10:50000", "198.51.100.21:31240"}, // another server
		{"192.0.2.10:50000", "198.51.100.20:31241"}, // another port
		{"198.51.100.20:31240", "192.0.2.10:50000"}, // the other way
	} {
		if _, ok := tr.Consume(netip.MustParseAddrPort(other[0]), netip.MustParseAddrPort(other[1])); ok {
			t.Errorf("%v is admitted", other)
		}
	}
	if x, ok := tr.Consume(src, dst); !ok || x.Master.Src != testClient {
		t.Errorf("Use = %+v, %v", x, ok)
	}
	if _, ok := tr.Consume(src, dst); ok {
		t.Error("an expectation serves two connections")
	}
}

// TestManyOfOneTuple bounds the control connections that expect the same tuple.
func TestManyOfOneTuple(t *testing.T) {
	var l log
	cfg := testConfig()
	cfg.Observe = l.observe
	tr := New(cfg)
	var last *wire
	for i := range maxSameTuple + 1 {
		w := newWire(tr)
		w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
		w.login()
		l.take()
		w.c("PORT 192,0,2,10,154,208\r\n")
		want := []string{served}
		if i == maxSameTuple {
			want = []string{"reject PORT 198.51.100.20 > 192.0.2.10:39632 clash"}
		}
		if diff := cmp.Diff(want, l.take()); diff != "" {
			t.Errorf("session %d: events (-want +got):\n%s", i, diff)
		}
		if i == maxSameTuple-1 {
			last = w
		}
	}
	last.c("PORT 192,0,2,10,154,208\r\n")
	want := []string{"withdraw PORT 198.51.100.20 > 192.0.2.10:39632 superseded", served}
	if diff := cmp.Diff(want, l.take()); diff != "" {
		t.Errorf("one of them again: events (-want +got):\n%s", diff)
	}
	checkBooks(t, tr)
}
