package main_test

import (
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/bench/lab/realftp"
)

// TestClients runs popular servers and clients through a router with the daemon, in
// every mode that a client supports: a file each way, and exactly two RELATED packets.
func TestClients(t *testing.T) {
	t.Parallel()
	for _, s := range realftp.Servers() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			server := labtest.ServeReal(ctx, t, l.Server, s, realftp.ServerConfig{PassivePorts: passivePorts})
			fw := installDropFirewall(t, l.Router, lab.Forward)
			start(t, l.Router, "")
			for _, c := range realftp.Clients() {
				for _, w := range miniftp.Ways(l.Server.Addrs()...) {
					if !c.Supports(w.Via, w.Server) {
						continue
					}
					t.Run(c.Name+" "+w.String(), func(t *testing.T) {
						before := mustRead(t, fw.Related)
						labtest.RoundTripReal(ctx, t, l.Client, c, server, w)
						if got := mustRead(t, fw.Related) - before; got != 2 {
							t.Errorf("%d related packets for 2 data connections", got)
						}
					})
				}
			}
			if n := mustRead(t, fw.Dropped); n != 0 {
				t.Errorf("%d packets dropped", n)
			}
		})
	}
}

// passivePorts is the passive range of the servers.
var passivePorts = [2]uint16{30000, 30999}
