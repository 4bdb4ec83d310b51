package main_test

import (
	"fmt"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
)

// TestForwardInputOutput runs the daemon at each hook of a firewall. Every mode of FTP
// whose data connections pass the hook as NEW is blocked without the daemon and passes
// with it, in each admission mode.
func TestForwardInputOutput(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		host  func(*lab.Lab) *lab.Host
		hooks []lab.Hook
		// passive leaves out active ways, whose data connections are opened in
		// the other direction and do not pass the hooks as NEW.
		passive bool
	}{
		{"router, FORWARD", func(l *lab.Lab) *lab.Host { return l.Router }, []lab.Hook{lab.Forward}, false},
		{"server, INPUT and OUTPUT", func(l *lab.Lab) *lab.Host { return l.Server }, []lab.Hook{lab.Input, lab.Output}, false},
		{"server, INPUT", func(l *lab.Lab) *lab.Host { return l.Server }, []lab.Hook{lab.Input}, true},
		{"client, OUTPUT and INPUT", func(l *lab.Lab) *lab.Host { return l.Client }, []lab.Hook{lab.Input, lab.Output}, false},
		{"client, OUTPUT", func(l *lab.Lab) *lab.Host { return l.Client }, []lab.Hook{lab.Output}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := labtest.New(t, lab.Config{})
			fw := installDropFirewall(t, tt.host(l), tt.hooks...)
			each := func(t *testing.T, f func(*testing.T, miniftp.Way)) {
				for _, w := range miniftp.Ways(l.Server.Addrs()...) {
					if !w.Via.Active() || !tt.passive {
						t.Run(w.String(), func(t *testing.T) { f(t, w) })
					}
				}
			}
			t.Run("without", func(t *testing.T) {
				ctx := testContext(t)
				s := &miniftp.Server{DataTimeout: blockedTimeout}
				labtest.Serve(t, l.Server, s)
				s.Put("file", labtest.Content(smallFile))
				each(t, func(t *testing.T, w miniftp.Way) {
					expectTransferBlocked(ctx, t, fw.Dropped, labtest.Connect(ctx, t, l.Client, w.Server), w.Via, "file")
				})
				if n := mustRead(t, fw.Related); n != 0 {
					t.Errorf("%d related packets without the daemon", n)
				}
			})
			for _, admit := range modes(t) {
				t.Run(admit, func(t *testing.T) {
					ctx := testContext(t)
					s := &miniftp.Server{}
					labtest.Serve(t, l.Server, s)
					start(t, tt.host(l), fmt.Sprintf("admit = %q\n", admit))
					dropped := mustRead(t, fw.Dropped)
					each(t, func(t *testing.T, w miniftp.Way) {
						before := mustRead(t, fw.Related)
						c := labtest.Connect(ctx, t, l.Client, w.Server)
						labtest.RoundTrip(ctx, t, c, s, w)
						if err := c.Quit(ctx); err != nil {
							t.Error(err)
						}
						if got := mustRead(t, fw.Related) - before; got != 2 {
							t.Errorf("%d related packets for 2 data connections", got)
						}
					})
					if got := mustRead(t, fw.Dropped) - dropped; got != 0 {
						t.Errorf("%d packets dropped", got)
					}
					hooks := 0
					if admit == "entry" {
						hooks = 2 // prerouting and output
					}
					if got := earlyHooks(t, tt.host(l)); len(got) != hooks {
						t.Errorf("chains ahead of conntrack: %q, want %d", got, hooks)
					}
				})
			}
		})
	}
}
