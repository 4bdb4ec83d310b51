package main_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// TestRulesRemoved deletes the daemon's table, as "nft flush ruleset" does. Data
// connections are blocked until the daemon has restored it. The daemon is stopped until
// the test has seen them blocked.
func TestRulesRemoved(t *testing.T) {
	t.Parallel()
	for _, admit := range modes(t) {
		t.Run(admit, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			s := &miniftp.Server{DataTimeout: blockedTimeout}
			labtest.Serve(t, l.Server, s)
			s.Put("file", labtest.Content(smallFile))
			fw := installDropFirewall(t, l.Router, lab.Forward)
			d := start(t, l.Router, "admit = \""+admit+"\"\n")
			older := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
			labtest.RoundTrip(ctx, t, older, s, miniftp.Way{Via: ftpparse.R227, Server: l.Server.IPv4()})

			signal := func(sig unix.Signal) {
				t.Helper()
				if err := d.process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			signal(unix.SIGSTOP)
			nft := &nftables.Conn{NetNS: l.Router.NetNS()}
			nft.DelTable(&nftables.Table{Name: "ftpctd", Family: nftables.TableFamilyINet})
			if err := nft.Flush(); err != nil {
				t.Fatal(err)
			}
			expectTransferBlocked(ctx, t, fw.Dropped, older, ftpparse.R227, "file")
			between := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
			expectTransferBlocked(ctx, t, fw.Dropped, between, ftpparse.R229, "file")
			if diff := cmp.Diff([]string{"queue 21", "lock"}, traces(t, l.Router)); diff != "" {
				t.Errorf("of a daemon without its table (-want +got):\n%s", diff)
			}

			signal(unix.SIGCONT)
			d.expectLog(t, "level=WARN", "was removed", "restored it")
			if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
				t.Errorf("of the daemon (-want +got):\n%s", diff)
			}
			// What was not seen is passed over once both ends have gone on.
			checkAlive(ctx, t, older)
			related := mustRead(t, fw.Related)
			for _, c := range []*miniftp.Client{older, labtest.Connect(ctx, t, l.Client, l.Server.IPv4())} {
				labtest.RoundTrip(ctx, t, c, s, miniftp.Way{Via: ftpparse.R227, Server: l.Server.IPv4()})
				related += 2
			}
			// Nobody saw how this one began.
			expectTransferBlocked(ctx, t, fw.Dropped, between, ftpparse.R227, "file")
			d.expectLog(t, "reason=not-seen-from-start")
			if got := mustRead(t, fw.Related); got != related {
				t.Errorf("%d related packets, want %d", got, related)
			}
			if n := d.log.count("restored it"); n != 1 {
				t.Errorf("the table was restored %d times, want once", n)
			}
		})
	}
}
