package main_test

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
)

// TestAttackErasedVerdict makes the daemon forget that a connection is no FTP, or
// never see how it began, and goes on with a session in its place.
func TestAttackErasedVerdict(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		config string // tables come last
		// before happens before the connection, and after behind its request.
		before, after func(t *testing.T, e *erasure)
	}{
		{
			name: "evicted by half-open connections", config: "[limits]\nconnections = 64\n",
			after: func(t *testing.T, e *erasure) {
				for i := range 200 {
					k := e.other(i)
					k.flags(t, k.client, lab.SYN)
					k.flags(t, k.server, lab.SYN|lab.ACK)
				}
			},
		},
		{
			name: "evicted by open connections", config: "[limits]\nconnections = 64\n",
			after: func(t *testing.T, e *erasure) {
				for i := range 200 {
					k := e.other(i)
					k.handshake(t)
					k.say(t, k.server, "220 hello\r\n")
					k.say(t, k.client, "NOOP\r\n")
				}
			},
		},
		{
			name: "evicted by connections that were not seen from their start", config: "[limits]\nconnections = 64\n",
			after: func(t *testing.T, e *erasure) {
				for i := range 200 {
					k := e.other(i)
					k.say(t, k.client, "NOOP\r\n")
				}
			},
		},
		{
			name: "evicted by incomplete lines", config: "[limits]\nconnections = 64\n",
			after: func(t *testing.T, e *erasure) {
				for i := range 200 {
					k := e.other(i)
					k.handshake(t)
					k.say(t, k.server, "2")
					k.say(t, k.client, "N")
				}
			},
		},
		{
			name: "RST that nobody else sees, and silence",
			after: func(t *testing.T, e *erasure) {
				e.deliver(t, e.server, e.segment(e.server, lab.RST|lab.ACK, ""))
				e.stage.flushConntrack(t)
			},
		},
		{
			name: "silence",
			after: func(t *testing.T, e *erasure) {
				e.stage.flushConntrack(t)
			},
		},
		{
			name: "FIN that nobody else sees, and silence",
			after: func(t *testing.T, e *erasure) {
				e.deliver(t, e.server, e.segment(e.server, lab.FIN|lab.ACK, ""))
				e.deliver(t, e.client, e.segment(e.client, lab.FIN|lab.ACK, ""))
				e.stage.flushConntrack(t)
			},
		},
		{
			name: "handshake unread, the queue being full", config: "[queue]\nlength = 64\n",
			before: func(t *testing.T, e *erasure) {
				others := make([]*talk, 200)
				for i := range others {
					others[i] = e.other(i)
					others[i].flags(t, others[i].client, lab.SYN)
				}
				if err := e.daemon.process.Signal(unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				last := others[len(others)-1]
				for _, k := range others[:len(others)-1] {
					k.send(t, k.server, k.segment(k.server, lab.SYN|lab.ACK, ""))
				}
				// Comes across because the queue is full.
				last.flags(t, last.server, lab.SYN|lab.ACK)
			},
			after: func(t *testing.T, e *erasure) {
				if err := e.daemon.process.Signal(unix.SIGCONT); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "request unread, the daemon being stopped", before: func(t *testing.T, e *erasure) {
				e.daemon.end(t)
			},
			// A connection that conntrack has had for ASSURED before the daemon's
			// start is picked up: see TestListedAtStart. This one is not assured.
			after: func(t *testing.T, e *erasure) {
				e.stage.flushConntrack(t)
				start(t, e.stage.Router, e.config)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				e := &erasure{config: config + tt.config}
				e.daemon = start(t, s.Router, e.config)
				e.talk = s.talk(testContext(t), netip.AddrPortFrom(victimIPv4, clientPort), netip.AddrPortFrom(attackerIPv4, lab.ControlPort))
				if tt.before != nil {
					tt.before(t, e)
				}
				e.handshake(t)
				e.say(t, e.client, post)
				tt.after(t, e)
				secret := netip.AddrPortFrom(victimIPv4, secretPort)
				e.say(t, e.client, "\r\n")
				e.masquerade(t, secret)
				s.expectClosed(t, attackerIPv4, secret)
			})
		})
	}
}

// erasure is a connection that is no FTP.
type erasure struct {
	*talk
	daemon *daemon
	config string
}

// other returns one of many connections from outside to a server inside.
func (e *erasure) other(i int) *talk {
	client := netip.AddrFrom4([4]byte{10, 9, byte(1 + i>>8), byte(i)})
	return e.stage.talk(e.ctx, netip.AddrPortFrom(client, 5000), netip.AddrPortFrom(netip.MustParseAddr("10.8.0.2"), lab.ControlPort))
}

// TestListedAtStart is a connection that conntrack already has when the daemon starts.
// Its earlier payload is unknown.
func TestListedAtStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, k *talk)
		after  func(t *testing.T, k *talk, secret netip.AddrPort)
		served bool
	}{
		{
			name:   "session that has logged in",
			before: func(t *testing.T, k *talk) { k.handshake(t); k.login(t) },
			after: func(t *testing.T, k *talk, secret netip.AddrPort) {
				k.dialogue(t, announce(secret), "200 OK")
			},
			served: true,
		},
		{
			name:   "handshake alone, then packets of another place",
			before: func(t *testing.T, k *talk) { k.flags(t, k.client, lab.SYN) },
			after: func(t *testing.T, k *talk, secret netip.AddrPort) {
				k.stage.flushConntrack(t)
				k.say(t, k.client, "NOOP\r\n")
				k.say(t, k.client, announce(secret)+"\r\n")
			},
		},
		{
			name: "session whose entry is gone before its next line",
			before: func(t *testing.T, k *talk) {
				k.handshake(t)
				k.say(t, k.client, post)
			},
			after: func(t *testing.T, k *talk, secret netip.AddrPort) {
				k.stage.flushConntrack(t)
				k.say(t, k.client, "\r\n")
				k.masquerade(t, secret)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				s := newStage(t)
				k := s.talk(testContext(t), netip.AddrPortFrom(victimIPv4, clientPort), netip.AddrPortFrom(attackerIPv4, lab.ControlPort))
				tt.before(t, k)
				start(t, s.Router, config)
				secret := netip.AddrPortFrom(victimIPv4, secretPort)
				tt.after(t, k, secret)
				if got := s.reachable(t, attackerIPv4, secret); got != tt.served {
					t.Errorf("%s can reach %s: %t, want %t", attackerIPv4, secret, got, tt.served)
				}
			})
		})
	}
	// Not judged: a request that was sent before the daemon started looks like any
	// connection that is listed, and its body like a session.
	t.Run("request, and its body", func(t *testing.T) {
		eachMode(t, func(t *testing.T, config string) {
			s := newStage(t)
			k := s.talk(testContext(t), netip.AddrPortFrom(victimIPv4, clientPort), netip.AddrPortFrom(attackerIPv4, lab.ControlPort))
			k.handshake(t)
			k.say(t, k.client, post)
			start(t, s.Router, config)
			secret := netip.AddrPortFrom(victimIPv4, secretPort)
			k.masquerade(t, secret)
			t.Logf("the body of a request of before the start opens a port: %t", s.reachable(t, attackerIPv4, secret))
		})
	})
}

// TestAttackGaps loses bytes of a session on purpose, in one direction, to undo what
// the other direction has said or what is known of the session.
func TestAttackGaps(t *testing.T) {
	t.Parallel()
	// More gaps than a small buffer for segments out of order holds.
	line := fmt.Sprintf("NOOP %0100d\r\n", 0)
	reply227 := func(secret netip.AddrPort) string {
		if secret.Addr().Is4() {
			return "227 here (" + hostPort(secret) + ")\r\n"
		}
		return fmt.Sprintf("229 here (|||%d|)\r\n", secret.Port())
	}
	ask := func(secret netip.AddrPort) string {
		if secret.Addr().Is4() {
			return "PASV\r\n"
		}
		return "EPSV\r\n"
	}
	for _, tt := range []struct {
		name   string
		attack func(t *testing.T, k *talk, secret netip.AddrPort)
		active bool // the secret is the client's
	}{
		{name: "no gap, PORT before the login", active: true, attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.say(t, k.server, "220 hello\r\n")
			k.dialogue(t, "USER anonymous", "331 which password?")
			k.say(t, k.client, announce(secret)+"\r\n")
		}},
		{name: "gap of the client, PORT before the login", active: true, attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.say(t, k.server, "220 hello\r\n")
			k.dialogue(t, "USER anonymous", "331 which password?")
			k.lost(t, k.client, line)
			k.say(t, k.client, announce(secret)+"\r\n")
		}},
		{name: "gap of the client, before the greeting", active: true, attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.lost(t, k.client, line)
			k.say(t, k.server, "220 hello\r\n")
			k.say(t, k.client, announce(secret)+"\r\n")
		}},
		{name: "gap of the client in place of PASS, and 530", active: true, attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.say(t, k.server, "220 hello\r\n")
			k.dialogue(t, "USER anonymous", "331 which password?")
			k.lost(t, k.client, line)
			k.say(t, k.server, "530 no\r\n")
			k.say(t, k.client, announce(secret)+"\r\n")
		}},
		{name: "gap of the client, 227 in a multi-line reply", attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.login(t)
			k.dialogue(t, "STAT file", "213-status of file:")
			k.lost(t, k.client, line)
			k.say(t, k.client, ask(secret))
			k.say(t, k.server, reply227(secret))
		}},
		{name: "227 in a multi-line reply", attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.login(t)
			k.dialogue(t, "STAT file", "213-status of file:")
			k.say(t, k.client, ask(secret))
			k.say(t, k.server, reply227(secret))
		}},
		{name: "FIN of the client ahead of its place, 227 in a multi-line reply", attack: func(t *testing.T, k *talk, secret netip.AddrPort) {
			k.login(t)
			k.dialogue(t, "STAT file", "213-status of file:")
			k.say(t, k.client, ask(secret))
			fin := k.segment(k.client, lab.FIN|lab.ACK, "")
			fin.Seq += 500
			k.deliver(t, k.client, fin)
			k.say(t, k.server, reply227(secret))
		}},
	} {
		for _, ipv6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %t", tt.name, ipv6), func(t *testing.T) {
				eachMode(t, func(t *testing.T, config string) {
					client, server := attackerIPv4, victimIPv4
					if ipv6 {
						client, server = attackerIPv6, victimIPv6
					}
					if tt.active { // the attacker serves, and the victim's program speaks for it
						client, server = server, client
					}
					s := newStage(t)
					start(t, s.Router, config)
					k := s.talk(testContext(t), netip.AddrPortFrom(client, clientPort), netip.AddrPortFrom(server, lab.ControlPort))
					k.handshake(t)
					from, secret := client, netip.AddrPortFrom(server, secretPort)
					if tt.active {
						from, secret = server, netip.AddrPortFrom(client, secretPort)
					}
					tt.attack(t, k, secret)
					s.expectClosed(t, from, secret)
				})
			})
		}
	}
}
