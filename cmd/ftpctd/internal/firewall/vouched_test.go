package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// payloads returns the payloads that were queued, each once, in order.
func (r *recorder) payloads() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for what := range r.seen {
		if words := strings.SplitN(what, " ", 4); len(words) == 4 && words[3] != "SYN" && words[3] != "FIN" && words[3] != "RST" {
			found = append(found, words[3])
		}
	}
	slices.Sort(found)
	return found
}

// dialFrom is labtest.DialNetns with a local port.
func dialFrom(t *testing.T, local netip.AddrPort, l net.Listener) (client, server net.Conn) {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}
	client, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// TestRoles holds that a connection is a control connection if its server has a
// control port, whatever port its client has, unless somebody expected it.
func TestRoles(t *testing.T) {
	for _, tt := range []struct {
		name         string
		sport, dport uint16
		expected     bool // by an entry with a master
		want         []string
	}{
		{name: "to a control port", sport: 40000, dport: 2121, want: []string{"from the client", "from the server"}},
		{name: "between control ports", sport: 21, dport: 2121, want: []string{"from the client", "from the server"}},
		{name: "from a control port", sport: 21, dport: 8080},
		{name: "neither", sport: 40000, dport: 8080},
		{name: "to a control port, expected", sport: 40000, dport: 2121, expected: true},
		{name: "from a control port, expected", sport: 21, dport: 8080, expected: true},
	} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(tt.name+" "+host, func(t *testing.T) {
				labtest.EnterNetns(t)
				var r recorder
				_, stop := run(t, carried.QueueNum, &r)
				install(t, carried)
				addr := netip.MustParseAddr(host)
				src, dst := netip.AddrPortFrom(addr, tt.sport), netip.AddrPortFrom(addr, tt.dport)
				l := labtest.ListenNetns(t, dst.String())
				if tt.expected {
					other := labtest.ListenNetns(t, net.JoinHostPort(host, "0"))
					master, _ := labtest.DialNetns(t, host, other)
					c, err := ctnetlink.Dial()
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					err = c.CreateEntry(conntrack.Tuple{Src: src, Dst: dst}, conntrack.Tuple{
						Src: master.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: master.RemoteAddr().(*net.TCPAddr).AddrPort(),
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				client, server := dialFrom(t, src, l)
				say(t, server, client, "from the server")
				say(t, client, server, "from the client")
				stop()
				if diff := cmp.Diff(tt.want, r.payloads()); diff != "" {
					t.Errorf("queued (-want +got):\n%s", diff)
				}
				if len(tt.want) == 0 && len(r.seen) != 0 {
					t.Errorf("queued %v, want nothing, the ends of the connection included", r.seen)
				}
			})
		}
	}
}

// TestSANERequest holds that what the kernel's helper takes for a request does not
// reach the server, and so neither the helper, and that nothing else is dropped.
func TestSANERequest(t *testing.T) {
	const request = "\x00\x00\x00\x07abcd"
	for _, tt := range []struct {
		name, helper, payload string
		server                bool // says it
		dropped               bool
	}{
		{name: "a request", helper: "sane", payload: request, dropped: true},
		{name: "a byte more", helper: "sane", payload: request + "e"},
		{name: "a byte less", helper: "sane", payload: request[:7]},
		{name: "another number", helper: "sane", payload: "\x00\x00\x00\x08abcd"},
		{name: "FTP of 8 bytes", helper: "sane", payload: "CWD ab\r\n"},
		{name: "of the server", helper: "sane", payload: request, server: true},
		{name: "no such helper", helper: "", payload: request},
	} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(tt.name+" "+host, func(t *testing.T) {
				labtest.EnterNetns(t)
				cfg := carried
				cfg.Helper = tt.helper
				table := install(t, cfg)
				from, to := labtest.DialNetns(t, host, labtest.ListenNetns(t, net.JoinHostPort(host, "21")))
				if tt.server {
					from, to = to, from
				}
				if !tt.dropped {
					say(t, from, to, tt.payload)
				} else {
					if _, err := from.Write([]byte(tt.payload)); err != nil {
						t.Fatal(err)
					}
					if err := to.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
						t.Fatal(err)
					}
					if n, err := to.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%d bytes arrive, error %v; want none", n, err)
					}
				}
				c, err := table.Counters()
				if err != nil || (c.SANERequests > 0) != tt.dropped || c.Spoofed+c.FastOpens > 0 {
					t.Errorf("counted %+v, error %v; want requests: %t, and nothing else", c, err, tt.dropped)
				}
			})
		}
	}
}

// TestCounters holds that what was counted does not go back when somebody removes
// the table and it is made again.
func TestCounters(t *testing.T) {
	labtest.EnterNetns(t)
	if _, err := ReadCounters(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a table: error %v, want os.ErrNotExist", err)
	}
	table := install(t, carried)
	client, _ := labtest.DialNetns(t, "127.0.0.1", labtest.ListenNetns(t, "127.0.0.1:21"))
	if _, err := client.Write([]byte("\x00\x00\x00\x07abcd")); err != nil {
		t.Fatal(err)
	}
	read := func() uint64 {
		t.Helper()
		c, err := table.Counters()
		if err != nil {
			t.Fatal(err)
		}
		return c.SANERequests
	}
	before := read()
	if c, err := ReadCounters(); err != nil || before == 0 || c.SANERequests < before {
		t.Fatalf("counted %+v, error %v; want at least %d, which is not 0", c, err, before)
	}
	_ = client.Close()
	if err := RemoveStale(); err != nil { // in another's name
		t.Fatal(err)
	}
	if got := read(); got < before {
		t.Errorf("%d without the table, want %d", got, before)
	}
	before = read()
	if gone, err := table.Restore(); !gone || err != nil {
		t.Fatalf("restored: %t, %v", gone, err)
	}
	if got := read(); got < before {
		t.Errorf("%d of the table that was made again, want at least %d", got, before)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := read(); got < before {
		t.Errorf("%d after Remove, want at least %d", got, before)
	}
}

// TestListing compares the chains that decide with what nft says of them, which is
// what an administrator sees, and what addRuleset's comment shows.
func TestListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		labtest.Unmet(t, "apt-get install nftables: "+err.Error())
	}
	const (
		expected = "ct status expected return"
		fastOpen = `tcp flags & (fin|syn|rst|ack) == syn @ih,0,8 >= 0x0 ct direction original counter name "fast-open" drop`
		both     = "ct state ! established return"
		answers  = "tcp flags & (fin|syn|rst|ack) == syn ct direction reply ct label set 127"
		begins   = "tcp flags & (fin|syn|rst|ack) == syn ct direction original ct label set 126"
		begun    = "tcp flags & (fin|syn|rst) == 0x2 ct label != 126 / 126,127 return"
		strict   = `iif != "lo" fib saddr . iif oif 0 fib saddr . mark . iif oif 0 counter name "spoofed" return`
		loose    = `iif != "lo" fib saddr type != unicast counter name "spoofed" return`
		forged   = "tcp flags & (fin|syn|rst|ack) == syn "
		label    = " ct label set 127"
		payload  = "@ih,0,8 >= 0x0 ct label ! 125 ct mark & 0x00000100 == 0x00000000 queue"
		firstOf  = "tcp flags & (fin|syn|rst|ack) == syn jump "
		ends     = "tcp flags & (fin|syn|rst) != 0x0 queue"
	)
	assign := []string{
		`ct state new ct helper set "helper4" ct helper set "helper6"`,
		"@ih,64,8 >= 0x0 return",
		`@ih,0,32 0x7 @ih,56,8 >= 0x0 counter name "sane-request" drop`,
	}
	hook := func(chain string) []string {
		return []string{"th dport 21 meta l4proto tcp ct direction original jump " + chain, "th sport 21 meta l4proto tcp ct direction reply jump " + chain}
	}
	arriving := append(hook("control-arriving"),
		`ct state related meta l4proto tcp ct helper "sane" `+strings.Replace(strict, "return", "drop", 1))
	for _, tt := range []struct {
		name  string
		spoof AntiSpoof
		want  map[string][]string
	}{
		{"strict", AntiSpoofStrict, map[string][]string{
			"assign": assign, "assign-input": {"th dport 21 meta l4proto tcp jump assign"},
			"control":          {expected, fastOpen, answers, begins, both, begun, payload, ends},
			"control-arriving": {expected, fastOpen, answers, strings.Replace(forged+strict, ` counter name "spoofed" return`, label, 1), strict, begins, both, begun, payload, ends},
			"queue-input":      arriving, "queue-forward": arriving, "queue-output": hook("control"),
			"data-prerouting": {firstOf + "data-arriving"}, "data-output": {firstOf + "data"},
		}},
		{"loose", AntiSpoofLoose, map[string][]string{
			"control-arriving": {expected, fastOpen, answers, strings.Replace(forged+loose, ` counter name "spoofed" return`, label, 1), loose, begins, both, begun, payload, ends},
		}},
		{"off", AntiSpoofOff, map[string][]string{
			"control": {expected, fastOpen, answers, begins, both, begun, payload, ends}, "control-arriving": nil,
			"queue-input": hook("control"), "queue-forward": hook("control"), "queue-output": hook("control"),
			"data-prerouting": {firstOf + "data"}, "data-output": {firstOf + "data"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			cfg := carried
			cfg.Ports, cfg.SkipMark, cfg.AntiSpoof = []uint16{21}, 0x100, tt.spoof
			table := install(t, cfg)
			if err := change(table, addr("192.0.2.1"), addr("203.0.113.1"), 31240, time.Minute); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("nft", "list", "table", "inet", tableName).Output()
			if err != nil {
				t.Fatal(err)
			}
			got := listedRules(string(out))
			for chain, want := range tt.want {
				if diff := cmp.Diff(want, got[chain]); diff != "" {
					t.Errorf("chain %s (-want +got):\n%s", chain, diff)
				}
			}
		})
	}
}

// listedRules returns the rules of each chain that nft has listed. Of a queue
// statement it leaves what depends on the kernel and the version of nft.
func listedRules(listing string) map[string][]string {
	found := make(map[string][]string)
	chain := ""
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "chain":
			chain = words[1]
		case line == "}":
			chain = ""
		case chain == "" || len(words) == 0 || words[0] == "type":
		default:
			rule := strings.NewReplacer(" oif missing", " oif 0", "@th,104,8 & 0x7", "tcp flags & (fin|syn|rst)",
				"@th,104,8 & 0x17 == 0x2", "tcp flags & (fin|syn|rst|ack) == syn",
				"tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin|syn|rst|ack) == syn").Replace(line)
			for _, queue := range []string{"queue ", "xt target", "libxtables"} {
				if before, _, ok := strings.Cut(rule, queue); ok {
					rule = before + "queue"
				}
			}
			if rule != "queue" || len(found[chain]) == 0 {
				found[chain] = append(found[chain], rule)
			}
		}
	}
	return found
}
