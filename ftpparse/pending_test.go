package ftpparse

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestQueue compares the queue with a slice, in and out of its backlog.
func TestQueue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var q queue
	var want []pending
	var forgotten uint32
	for range 100_000 {
		switch n := random.IntN(8); {
		case n < 4:
			p := pending{verb: Verb(random.IntN(5)), port: uint16(random.IntN(1 << 16))}
			q.push(p)
			if want = append(want, p); len(want) > maxPending {
				want = want[1:]
				forgotten++
			}
		case n < 7 && len(want) > 0:
			k := min(1+random.IntN(3), len(want))
			q.drop(uint8(k))
			want, forgotten = want[k:], 0
		case random.IntN(10) == 0:
			q.forget()
			forgotten += uint32(len(want))
			want = nil
		}
		if len(want) == 0 {
			q.shrink()
		}
		if int(q.length) != len(want) || q.forgotten != forgotten {
			t.Fatalf("%d commands and %d forgotten, want %d and %d", q.length, q.forgotten, len(want), forgotten)
		}
		for i, p := range want {
			if got := q.at(uint8(i)); got != p {
				t.Fatalf("command %d is %v, want %v", i, got, p)
			}
		}
	}
}

// TestBacklogIsReturned makes sure that a session whose commands all have their reply, or
// that was given up, keeps nothing for its queue.
func TestBacklogIsReturned(t *testing.T) {
	pipelined := slices.Concat(login, script{"C:NOOP\r\nNOOP\r\nNOOP\r\n", "S:200 ok\r\n200 ok\r\n"})
	tests := []struct {
		name   string
		script script
		end    func(*Session)
		kept   bool
	}{
		{name: "a reply is missing", script: pipelined, kept: true},
		{name: "every command has its reply", script: slices.Concat(pipelined, script{"S:200 ok\r\n"})},
		{name: "released", script: pipelined, end: (*Session).Release},
		{name: "started again", script: pipelined, end: func(s *Session) { s.Start(1, 1) }},
		{name: "not FTP", script: script{"S:220 r\r\n", "C:hello\r\nNOOP\r\nNOOP\r\n", "S:200 hm\r\n"}},
		{name: "switched to TLS", script: slices.Concat(pipelined, script{"C:AUTH TLS\r\n", "S:200 ok\r\n234 go\r\n"})},
		{name: "deferred PORT", script: script{"S:220 r\r\n", "C:PASS b\r\nPORT 192,0,2,10,19,136\r\n"}, kept: true},
		{name: "deferred PORT, accepted", script: script{"S:220 r\r\n", "C:PASS b\r\nPORT 192,0,2,10,19,136\r\n", "S:230 ok\r\n200 ok\r\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Session
			s.Start(1, 1)
			tt.script.play(&s, 1, 1)
			if tt.end != nil {
				tt.end(&s)
			}
			if kept := s.queue.backlog != nil; kept != tt.kept {
				t.Errorf("backlog kept: %v, want %v", kept, tt.kept)
			}
			s.Release()
		})
	}
}

// TestBacklogIsClean makes sure that the address of one session does not reach another
// through the pool.
func TestBacklogIsClean(t *testing.T) {
	var q queue
	q.deferTo(netip.MustParseAddr("192.0.2.10"))
	b := q.backlog
	q.shrink()
	if b.deferredAddr.IsValid() {
		t.Errorf("a returned backlog has the address %v", b.deferredAddr)
	}
}
