package main_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// TestHelperName is a firewall that admits RELATED packets of the helper "ftp" alone, as
// rulesets for the kernel's helper do. The daemon's own helper has that name, and doctor
// does not take it for the kernel's.
func TestHelperName(t *testing.T) {
	t.Parallel()
	if !slices.Contains(modes(t), "helper") {
		labtest.UnmetKernel(t, "the kernel has no user-space helpers")
	}
	if _, err := os.Stat("/sys/module/nf_conntrack_ftp"); err == nil {
		t.Skip("nf_conntrack_ftp is loaded, and has the name")
	}
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{DataTimeout: blockedTimeout}
	labtest.Serve(t, l.Server, s)
	s.Put("file", labtest.Content(smallFile))
	iptables(t, l.Router, `
		-P FORWARD DROP
		-A FORWARD -p tcp --dport 21 -j ACCEPT
		-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
		-A FORWARD -m conntrack --ctstate RELATED -m helper --helper ftp -j ACCEPT
	`)
	vias := []ftpparse.Via{ftpparse.PORT, ftpparse.R227}

	// Expectations of another helper do not match.
	other := start(t, l.Router, `admit = "expect"`)
	for _, via := range vias {
		expectTransferBlocked(ctx, t, dropped(l.Router), labtest.Connect(ctx, t, l.Client, l.Server.IPv4()), via, "file")
	}
	other.end(t)

	const config = "admit = \"helper\"\nhelper.name = \"ftp\"\n"
	start(t, l.Router, config)
	for _, via := range vias {
		c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
		labtest.RoundTrip(ctx, t, c, s, miniftp.Way{Via: via, Server: l.Server.IPv4()})
	}

	got := execute(t, l.Router, "doctor", "-c", configFile(t, config))
	if got.Code != 0 || got.Stderr != "" {
		t.Errorf("doctor ended with %d: %s", got.Code, got.Stderr)
	}
	for _, want := range []string{
		`expectations with the daemon's own helper, "ftp": admit = "helper"`,
		"were RELATED in a private network namespace",
		"no rule assigns the kernel's ftp helper",
		"default-drop chains with a rule for ct state related: ip filter FORWARD",
	} {
		if !strings.Contains(got.Stdout, want) {
			t.Errorf("doctor does not print %q:\n%s", want, got.Stdout)
		}
	}
}
