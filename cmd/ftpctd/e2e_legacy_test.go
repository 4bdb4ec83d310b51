package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/bench/lab/realftp"
	"ftpctd/ftpparse"
)

// The cases this project began from.

// The rules of 2008 for a client, as the arguments of iptables.
const (
	controlRules = `
		-P INPUT DROP
		-P FORWARD DROP
		-P OUTPUT DROP
		-A INPUT -i lo -j ACCEPT
		-A OUTPUT -o lo -j ACCEPT
		-A OUTPUT -p tcp --dport 21 -m state --state NEW,ESTABLISHED -j ACCEPT
		-A INPUT -p tcp --sport 21 -m state --state ESTABLISHED -j ACCEPT
	`
	activeRules = controlRules + `
		-A INPUT -p tcp --sport 20 -m state --state ESTABLISHED,RELATED -j ACCEPT
		-A OUTPUT -p tcp --dport 20 -m state --state ESTABLISHED -j ACCEPT
	`
	passiveRules = controlRules + `
		-A OUTPUT -p tcp --sport 1024: --dport 1024: -m state --state ESTABLISHED,RELATED -j ACCEPT
		-A INPUT -p tcp --sport 1024: --dport 1024: -m state --state ESTABLISHED -j ACCEPT
	`
)

// iptables applies rules to a host, one after the other.
func iptables(t *testing.T, h *lab.Host, rules string) {
	t.Helper()
	if _, err := exec.LookPath("iptables"); err != nil {
		labtest.Unmet(t, "needs iptables: run sudo make deps")
	}
	for rule := range strings.Lines(rules) {
		args := strings.Fields(rule)
		if len(args) == 0 {
			continue
		}
		// Hosts share the lock file of xtables: wait for it.
		if _, err := h.Output(exec.Command("iptables", append(args, "-w", "10")...)); err != nil {
			t.Fatalf("iptables %s: %v", strings.TrimSpace(rule), err)
		}
	}
}

// policyDrop is a chain with the policy DROP in the output of iptables -L -v -x.
var policyDrop = regexp.MustCompile(`\(policy DROP (\d+) packets`)

// dropped returns the counter of the packets that the policies of a host's iptables
// chains drop.
func dropped(h *lab.Host) func() (uint64, error) {
	return func() (uint64, error) {
		out, err := h.Output(exec.Command("iptables", "-L", "-n", "-v", "-x", "-w", "10"))
		if err != nil {
			return 0, err
		}
		return sumPolicyDrops(out)
	}
}

func sumPolicyDrops(list []byte) (sum uint64, err error) {
	for _, match := range policyDrop.FindAllSubmatch(list, -1) {
		n, err := strconv.ParseUint(string(match[1]), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// tap is a host that records its control connections.
type tap struct {
	*lab.Host
	mu             sync.Mutex
	sent, received bytes.Buffer
}

// DialTCP implements miniftp.Network.
func (tp *tap) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	conn, err := tp.Host.DialTCP(ctx, local, remote)
	if err != nil || remote.Port() != lab.ControlPort {
		return conn, err
	}
	return tapped{conn, tp}, nil
}

// controlLines returns the lines that begin with a word, of both directions.
func (tp *tap) controlLines(word string) []string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var found []string
	for _, b := range []*bytes.Buffer{&tp.sent, &tp.received} {
		for line := range strings.Lines(b.String()) {
			if strings.HasPrefix(line, word) {
				found = append(found, line)
			}
		}
	}
	return found
}

type tapped struct {
	net.Conn
	tap *tap
}

func (c tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	c.tap.received.Write(b[:n])
	return n, err
}

func (c tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.sent.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

// TestLegacyIptablesRules is the first transfer that this project was to make possible:
// real iptables rules of 2008 on the client, and their very lines and ports.
func TestLegacyIptablesRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, rules string
		via         ftpparse.Via
		word, line  string // on the control connection
		endpoint    string // in the daemon's log
	}{
		{
			name: "active", rules: activeRules, via: ftpparse.PORT,
			word: "PORT", line: "PORT 192,168,0,211,154,208\r\n", endpoint: "dst=192.168.0.211:39632",
		},
		{
			name: "passive", rules: passiveRules, via: ftpparse.R227,
			word: "227", line: "227 Entering Passive Mode (192,168,0,201,122,8).\r\n", endpoint: "dst=192.168.0.201:31240",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := labtest.New(t, lab.Config{
				ClientIPv4: netip.MustParseAddr("192.168.0.211"),
				ServerIPv4: netip.MustParseAddr("192.168.0.201"),
			})
			iptables(t, l.Client, tt.rules)
			want := labtest.Content(smallFile)
			connect := func(t *testing.T, s *miniftp.Server) (*miniftp.Client, *tap) {
				s.PassivePorts = [2]uint16{31240, 31240}
				s.Put("file", want)
				labtest.Serve(t, l.Server, s)
				wire := &tap{Host: l.Client}
				c := labtest.Connect(testContext(t), t, wire, l.Server.IPv4())
				c.ActivePort = 39632
				return c, wire
			}
			announced := func(t *testing.T, wire *tap) {
				t.Helper()
				if got := wire.controlLines(tt.word); len(got) != 1 || got[0] != tt.line {
					t.Errorf("on the control connection: %q, want %q", got, tt.line)
				}
			}
			t.Run("without", func(t *testing.T) {
				c, wire := connect(t, &miniftp.Server{DataTimeout: blockedTimeout})
				expectTransferBlocked(testContext(t), t, dropped(l.Client), c, tt.via, "file")
				announced(t, wire)
			})
			t.Run("with", func(t *testing.T) {
				d := start(t, l.Client, "")
				c, wire := connect(t, &miniftp.Server{})
				got, err := c.Retr(testContext(t), tt.via, "file")
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
				}
				announced(t, wire)
				expectLogTimes(t, d, 1, "data connection expected", tt.endpoint)
			})
		})
	}
}

// TestPassiveRange is a vsftpd with a passive range behind a firewall that opens port 21
// alone, as "ufw allow ftp" does. A port that the server announces is open to the client
// that it was announced to; the rest of the range is closed.
func TestPassiveRange(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	serveAs(ctx, t, l.Server, mustVsftpd(t), realftp.ServerConfig{})
	fw := installDropFirewall(t, l.Server, lab.Input)

	t.Run("without", func(t *testing.T) {
		expectTransferBlocked(ctx, t, fw.Dropped, loginReal(ctx, t, l.Client, l.Server.IPv4()), ftpparse.R227, down)
	})
	start(t, l.Server, "")
	for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229} {
		t.Run(via.String(), func(t *testing.T) {
			before := mustRead(t, fw.Related)
			mustRetrieve(ctx, t, loginReal(ctx, t, l.Client, l.Server.IPv4()), via)
			if got := mustRead(t, fw.Related) - before; got != 1 {
				t.Errorf("%d related packets for 1 data connection", got)
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		related := mustRead(t, fw.Related)
		named := mustPASV(ctx, t, loginReal(ctx, t, l.Client, l.Server.IPv4()))
		other := netip.AddrPortFrom(named.Addr(), passivePorts[0]+(named.Port()-passivePorts[0]+1)%1000)
		listen(ctx, t, l.Server, other)

		expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, other) // which no reply named
		expectBlocked(ctx, t, fw, l.Router, netip.AddrPort{}, named) // which was named to somebody else
		if got := mustRead(t, fw.Related) - related; got != 0 {
			t.Errorf("%d related packets, want none yet", got)
		}
		expectConnect(ctx, t, l.Client, netip.AddrPort{}, named)
		if got := mustRead(t, fw.Related) - related; got != 1 {
			t.Errorf("%d related packets for 1 data connection", got)
		}
	})
}

func mustVsftpd(t *testing.T) realftp.Server {
	t.Helper()
	for _, s := range realftp.Servers() {
		if s.Name == "vsftpd" {
			return s
		}
	}
	t.Fatal("no server is called vsftpd")
	return realftp.Server{}
}

// mustPASV sends PASV and returns the endpoint of the reply.
func mustPASV(ctx context.Context, t *testing.T, c *miniftp.Client) netip.AddrPort {
	t.Helper()
	message, err := c.Command(ctx, 227, "PASV")
	if err != nil {
		t.Fatal(err)
	}
	var a [4]byte
	var high, low uint16
	_, numbers, _ := strings.Cut(message, "(")
	if _, err := fmt.Sscanf(numbers, "%d,%d,%d,%d,%d,%d)", &a[0], &a[1], &a[2], &a[3], &high, &low); err != nil {
		t.Fatalf("no endpoint in the reply 227 %s: %v", message, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(a), high<<8|low)
}
