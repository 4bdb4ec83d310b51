package conntrack

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPolicy(t *testing.T) {
	const (
		asked227 = "227 ok (%s)\r\n"
		own      = "198,51,100,20,"
		third    = "203,0,113,9,"
	)
	v6 := [2]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::10]:40000"), netip.MustParseAddrPort("[2001:db8::20]:21")}
	tests := []struct {
		name   string
		policy func(*Policy)
		v6     bool
		play   []string // C: and S: after the login
		want   string   // the event
	}{
		{name: "own address", play: []string{"C:PASV", "S:227 (" + own + "122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "third host, peer", play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "third host, strict", policy: func(p *Policy) { p.PassiveAddress = AddressStrict }, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "reject 227 192.0.2.10 > 203.0.113.9:31240 foreign-address"},
		{name: "third host, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "expect 227 192.0.2.10 > 203.0.113.9:31240"},
		{name: "loopback, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (127,0,0,1,122,8)"}, want: "reject 227 192.0.2.10 > 127.0.0.1:31240 foreign-address"},
		{name: "multicast, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (224,0,0,1,122,8)"}, want: "reject 227 192.0.2.10 > 224.0.0.1:31240 foreign-address"},
		{name: "unspecified, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, play: []string{"C:PASV", "S:227 (0,0,0,0,122,8)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:31240"},
		{name: "IPv4 address on IPv6, peer", v6: true, play: []string{"C:PASV", "S:227 (0,0,0,0,122,8)"}, want: "expect 227 2001:db8::10 > [2001:db8::20]:31240"},
		{name: "IPv4 address on IPv6, reply", policy: func(p *Policy) { p.PassiveAddress = AddressReply }, v6: true, play: []string{"C:PASV", "S:227 (" + third + "122,8)"}, want: "reject 227 2001:db8::10 > 203.0.113.9:31240 foreign-address"},
		{name: "EPSV", v6: true, play: []string{"C:EPSV", "S:229 (|||31240|)"}, want: "expect 229 2001:db8::10 > [2001:db8::20]:31240"},
		{name: "229 naming a third host, strict", policy: func(p *Policy) { p.PassiveAddress = AddressStrict }, play: []string{"C:EPSV", "S:229 (|1|203.0.113.9|31240|)"}, want: "reject 229 192.0.2.10 > 203.0.113.9:31240 foreign-address"},
		{name: "privileged port", play: []string{"C:PASV", "S:227 (" + own + "3,255)"}, want: "reject 227 192.0.2.10 > 198.51.100.20:1023 below-min-port"},
		{name: "lowest port", play: []string{"C:PASV", "S:227 (" + own + "4,0)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:1024"},
		{name: "passive range", policy: func(p *Policy) { p.PassivePorts = PortRange{30000, 30999} }, play: []string{"C:PASV", "S:227 (" + own + "121,24)"}, want: "reject 227 192.0.2.10 > 198.51.100.20:31000 port-not-allowed"},
		{name: "end of the passive range", policy: func(p *Policy) { p.PassivePorts = PortRange{30000, 30999} }, play: []string{"C:PASV", "S:227 (" + own + "121,23)"}, want: "expect 227 192.0.2.10 > 198.51.100.20:30999"},
		{name: "PORT", play: []string{"C:PORT 192,0,2,10,154,208"}, want: "expect PORT 198.51.100.20 > 192.0.2.10:39632"},
		{name: "PORT to a third host", play: []string{"C:PORT 203,0,113,9,154,208"}, want: "reject PORT 198.51.100.20 > 203.0.113.9:39632 foreign-address"},
		{name: "PORT to the server itself", play: []string{"C:PORT 198,51,100,20,154,208"}, want: "reject PORT 198.51.100.20 > 198.51.100.20:39632 foreign-address"},
		{name: "PORT to a privileged port", play: []string{"C:PORT 192,0,2,10,0,22"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:22 below-min-port"},
		{name: "EPRT mapped address", play: []string{"C:EPRT |2|::ffff:192.0.2.10|5000|"}, want: "expect EPRT 198.51.100.20 > 192.0.2.10:5000"},
		{name: "EPRT IPv6", v6: true, play: []string{"C:EPRT |2|2001:db8:0:0::10|5000|"}, want: "expect EPRT 2001:db8::20 > [2001:db8::10]:5000"},
		{name: "active range", policy: func(p *Policy) { p.ActivePorts = PortRange{40000, 50000} }, play: []string{"C:PORT 192,0,2,10,154,208"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:39632 port-not-allowed"},
		{name: "active mode off", policy: func(p *Policy) { p.Active = false }, play: []string{"C:PORT 192,0,2,10,154,208"}, want: "reject PORT 198.51.100.20 > 192.0.2.10:39632 active-disabled"},
		{name: "malformed", play: []string{"C:PORT 192,0,2,10,154"}, want: "reject PORT 198.51.100.20 > invalid AddrPort malformed"},
		{name: "unpaired 229", play: []string{"S:229 (|||31240|)"}, want: "reject 229 192.0.2.10 > 198.51.100.20:31240 unpaired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			if tt.policy != nil {
				tt.policy(&cfg.Policy)
			}
			w := newWire(New(cfg))
			if tt.v6 {
				w.client, w.server = v6[0], v6[1]
			}
			w.login()
			l.take()
			for _, step := range tt.play {
				if text, ok := strings.CutPrefix(step, "C:"); ok {
					w.c(text + "\r\n")
				} else {
					w.s(step[2:] + "\r\n")
				}
			}
			if diff := cmp.Diff([]string{tt.want}, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequireLogin(t *testing.T) {
	for _, require := range []bool{true, false} {
		cfg := testConfig()
		cfg.Policy.RequireLogin = require
		tr := New(cfg)
		w := newWire(tr)
		w.handshake()
		w.s("220 r\r\n")
		w.c("PORT 192,0,2,10,154,208\r\n")
		if got := len(standing(tr)) == 0; got != require {
			t.Errorf("RequireLogin %v: rejected %v", require, got)
		}
	}
}

func TestPortRange(t *testing.T) {
	tests := []struct {
		name    string
		ports   PortRange
		text    string
		inside  []uint16
		outside []uint16
	}{
		{name: "range", ports: PortRange{Min: 30000, Max: 30999}, text: "30000-30999", inside: []uint16{30000, 30500, 30999}, outside: []uint16{0, 29999, 31000}},
		{name: "one port", ports: PortRange{Min: 21, Max: 21}, text: "21", inside: []uint16{21}, outside: []uint16{20, 22}},
		{name: "all ports", ports: PortRange{Min: 1, Max: 65535}, text: "1-65535", inside: []uint16{1, 65535}, outside: []uint16{0}},
		{name: "none", outside: []uint16{0, 1, 65535}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.ports.String(); got != tt.text {
				t.Errorf("String: %q, want %q", got, tt.text)
			}
			for _, port := range tt.inside {
				if !tt.ports.Contains(port) {
					t.Errorf("does not contain %d", port)
				}
			}
			for _, port := range tt.outside {
				if tt.ports.Contains(port) {
					t.Errorf("contains %d", port)
				}
			}
		})
	}
}
