package main_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// contest is two control connections of one client whose server names the same
// port to both. The kernel can expect it for one of them at a time: the reply to
// the second is held. The mode "entry" holds nothing.
type contest struct {
	lab      *lab.Lab
	firewall *lab.Firewall
	daemon   *daemon
	port     netip.AddrPort
	second   *control

	asked   time.Time
	replied chan struct{} // closed when the 227 to the second has come
	took    time.Duration // until then
	err     error
}

// newContest returns when the port is announced to the second.
func newContest(ctx context.Context, t *testing.T, config string) *contest {
	t.Helper()
	l := labtest.New(t, lab.Config{})
	ct := &contest{lab: l, port: netip.AddrPortFrom(l.Server.IPv4(), 30000), replied: make(chan struct{})}
	listen(ctx, t, l.Server, ct.port)
	script{"PASV": "227 here (" + hostPort(ct.port) + ")"}.serve(ctx, t, l.Server)
	ct.firewall = installDropFirewall(t, l.Router, lab.Forward)
	ct.daemon = start(t, l.Router, config)

	first := login(ctx, t, l)
	ct.second = login(ctx, t, l)
	first.command(t, 227, "PASV")
	ct.asked = time.Now()
	go func() {
		defer close(ct.replied)
		if ct.err = ct.second.PrintfLine("PASV"); ct.err == nil {
			_, _, ct.err = ct.second.ReadResponse(227)
		}
		ct.took = time.Since(ct.asked)
	}()
	ct.daemon.expectLog(t, "data connection expected", "client="+ct.second.addr.String())
	return ct
}

// reply waits for the reply to the second and returns how long it took.
func (ct *contest) reply(t *testing.T) time.Duration {
	t.Helper()
	<-ct.replied
	if ct.err != nil {
		t.Fatal(ct.err)
	}
	return ct.took
}

// use opens a data connection, and expects it to be the nth RELATED one.
func (ct *contest) use(ctx context.Context, t *testing.T, n uint64) {
	t.Helper()
	expectConnect(ctx, t, ct.lab.Client, netip.AddrPort{}, ct.port)
	if got := mustRead(t, ct.firewall.Related); got != n {
		t.Errorf("%d related packets for %d data connections", got, n)
	}
}

// holdFor is how long the daemon holds a packet, according to the README.
const holdFor = 200 * time.Millisecond

func TestClash(t *testing.T) {
	t.Parallel()
	t.Run("the first is used", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		ct := newContest(ctx, t, "")
		select {
		case <-ct.replied:
			if ct.took < holdFor {
				t.Errorf("the second reply was not held: it came after %v", ct.took)
			}
		default:
		}
		// On a busy machine that may have taken longer than a packet is held:
		// then this contest proves nothing.
		for ct.use(ctx, t, 1); time.Since(ct.asked) >= holdFor; ct.use(ctx, t, 1) {
			ct = newContest(ctx, t, "")
		}
		t.Logf("the second reply came after %v", ct.reply(t))
		ct.use(ctx, t, 2)
		ct.second.command(t, 200, "NOOP")
		if n := ct.daemon.log.count("reason=clash"); n != 0 {
			t.Errorf("%d refusals", n)
		}
	})
	t.Run("the first is not used", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		ct := newContest(ctx, t, "")
		if took := ct.reply(t); took < holdFor {
			t.Errorf("the second reply came after %v, want at least %v", took, holdFor)
		}
		ct.daemon.expectLog(t, "kernel rejected expectation", "reason=clash", "client="+ct.second.addr.String())
		ct.second.command(t, 200, "NOOP")
		// What the first was promised is still there, once.
		ct.use(ctx, t, 1)
		expectBlocked(ctx, t, ct.firewall, ct.lab.Client, netip.AddrPort{}, ct.port)
		// Now the second may have it.
		ct.second.command(t, 227, "PASV")
		ct.use(ctx, t, 2)
	})
	t.Run("the daemon ends", func(t *testing.T) {
		t.Parallel()
		ct := newContest(testContext(t), t, "")
		ct.daemon.end(t)
		ct.reply(t)
		ct.second.command(t, 200, "NOOP")
	})
	const entry = "admit = \"entry\"\n"
	t.Run("entry, both are used", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		ct := newContest(ctx, t, entry)
		ct.reply(t)
		ct.use(ctx, t, 1)
		ct.use(ctx, t, 2)
		expectBlocked(ctx, t, ct.firewall, ct.lab.Client, netip.AddrPort{}, ct.port)
		if n := ct.daemon.log.count("reason=clash"); n != 0 {
			t.Errorf("%d refusals", n)
		}
	})
	t.Run("entry, the second ends first", func(t *testing.T) {
		t.Parallel()
		ctx := testContext(t)
		ct := newContest(ctx, t, entry)
		ct.reply(t)
		ct.second.command(t, 221, "QUIT")
		ct.daemon.expectLog(t, "expectation withdrawn", "client="+ct.second.addr.String())
		ct.use(ctx, t, 1)
		expectBlocked(ctx, t, ct.firewall, ct.lab.Client, netip.AddrPort{}, ct.port)
	})
}
