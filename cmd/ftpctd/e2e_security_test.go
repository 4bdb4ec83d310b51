package main_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// TestAttacks sends lines on a control connection that attempt to open a port, and
// probes the port. It must be closed, and the control connection must live. Honest
// sessions prove that the port would be open otherwise.
func TestAttacks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	const (
		port   = 39632 // 154,208
		here   = "192,168,0,10,154,208"
		there  = "203,0,113,10,154,208"
		third  = "192,0,2,1,154,208"
		secure = "192,168,0,10,0,22"
	)
	logins := []string{"USER anonymous", "PASS lab@example.com"}
	post := []string{"POST / HTTP/1.1", "Host: example.com", "", "PORT " + here}
	for _, tt := range []struct {
		name   string
		config string
		server script
		login  bool
		lines  []string // the client's; the server replies to each
		// from opens the data connection, to port unless it is said otherwise.
		from *lab.Host
		port uint16
		// log are words of a line in the daemon's log; none if it is honest.
		log []string
	}{
		{name: "honest PORT", login: true, lines: []string{"PORT " + here}, from: l.Server},
		{
			name: "honest PASV", login: true, lines: []string{"PASV"},
			server: script{"PASV": "227 (" + there + ")"}, from: l.Client,
		},
		{
			name: "PORT of a third host", login: true, lines: []string{"PORT " + third}, from: l.Server,
			log: []string{"data connection rejected", "via=PORT", "reason=foreign-address"},
		},
		{
			name: "EPRT of a third host", login: true, lines: []string{"EPRT |1|192.0.2.1|39632|"}, from: l.Server,
			log: []string{"data connection rejected", "via=EPRT", "reason=foreign-address"},
		},
		{
			name: "PORT of port 22", login: true, lines: []string{"PORT " + secure}, from: l.Server, port: 22,
			log: []string{"data connection rejected", "via=PORT", "reason=below-min-port"},
		},
		{
			name: "227 of port 22", login: true, lines: []string{"PASV"}, from: l.Client, port: 22,
			server: script{"PASV": "227 (203,0,113,10,0,22)"},
			log:    []string{"data connection rejected", "via=227", "reason=below-min-port"},
		},
		{
			name: "227 without PASV", login: true, lines: []string{"NOOP"}, from: l.Client,
			server: script{"NOOP": "227 (" + there + ")"},
			log:    []string{"data connection rejected", "via=227", "reason=unpaired"},
		},
		{
			name: "PORT before the login", lines: []string{"PORT " + here}, from: l.Server,
			log: []string{"data connection rejected", "via=PORT", "reason=login-required"},
		},
		{
			name: "PORT that the server refuses", login: true, lines: []string{"PORT " + here}, from: l.Server,
			server: script{"PORT": "500 no"},
			log:    []string{"withdrawn", "via=PORT", "reason=refused"},
		},
		{
			name: "HTTP", lines: post, from: l.Server,
			log: []string{"control connection skipped", "reason=not-a-verb"},
		},
		{
			name: "HTTP to a server without a greeting", lines: post, from: l.Server,
			server: script{greeting: silent},
			log:    []string{"control connection skipped", "reason=no-greeting"},
		},
		{
			name: "227 of a third host, strict", login: true, lines: []string{"PASV"}, from: l.Client,
			config: "[passive]\naddress = \"strict\"\n",
			server: script{"PASV": "227 (" + third + ")"},
			log:    []string{"data connection rejected", "via=227", "reason=foreign-address"},
		},
		{
			name: "227 out of the range", login: true, lines: []string{"PASV"}, from: l.Client,
			config: "[passive]\nports = \"30000-30999\"\n",
			server: script{"PASV": "227 (" + there + ")"},
			log:    []string{"data connection rejected", "via=227", "reason=port-not-allowed"},
		},
		{
			name: "PORT, passive only", login: true, lines: []string{"PORT " + here}, from: l.Server,
			config: "[active]\nenabled = false\n",
			log:    []string{"data connection rejected", "via=PORT", "reason=active-disabled"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.server.serve(ctx, t, l.Server)
			to := l.Server
			if tt.from == l.Server {
				to = l.Client
			}
			if tt.port == 0 {
				tt.port = port
			}
			endpoint := netip.AddrPortFrom(to.IPv4(), tt.port)
			listen(ctx, t, to, endpoint)
			d := start(t, l.Router, tt.config)
			before := mustRead(t, fw.Related)

			c := connect(ctx, t, l)
			if tt.server[greeting] != silent {
				c.expectReply(t, 220)
			}
			if tt.login {
				tt.lines = slices.Concat(logins, tt.lines)
			}
			for _, line := range tt.lines {
				c.command(t, 0, line)
			}
			if tt.log == nil {
				expectConnect(ctx, t, tt.from, netip.AddrPort{}, endpoint)
				if got := mustRead(t, fw.Related) - before; got != 1 {
					t.Errorf("%d related packets for 1 data connection", got)
				}
				return
			}
			d.expectLog(t, tt.log...)
			if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
				t.Errorf("of the daemon (-want +got):\n%s", diff)
			}
			expectBlocked(ctx, t, fw, tt.from, netip.AddrPort{}, endpoint)
			if got := mustRead(t, fw.Related) - before; got != 0 {
				t.Errorf("%d related packets, want none", got)
			}
			c.command(t, 200, "SYST")
		})
	}
}
