package main_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"ftpctd/bench/lab"
)

// The messages that the kernel's helper for SANE reads (nf_conntrack_sane.c): the
// request to start an acquisition, and its answer, which names a port.
const saneRequest = "\x00\x00\x00\x07\x00\x00\x00\x01"

func saneAnswer(port uint16) string {
	b := binary.BigEndian.AppendUint32(nil, 0) // success
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, port)
	return string(append(b, make([]byte, 8)...))
}

// TestAttackSANE sends a request to the kernel's helper that carries the expectations,
// past the daemon: the port to be opened is below min_port.
func TestAttackSANE(t *testing.T) {
	t.Parallel()
	const telnet = 23
	for _, tt := range []struct {
		name string
		// ask sends the request, perhaps; what is dropped does not come across.
		ask func(t *testing.T, k *talk)
	}{
		{name: "request", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.whisper(t, saneRequest)
		}},
		{name: "request before the greeting", ask: func(t *testing.T, k *talk) {
			k.whisper(t, saneRequest)
		}},
		{name: "request in a session", ask: func(t *testing.T, k *talk) {
			k.login(t)
			k.whisper(t, saneRequest)
		}},
		{name: "request in TLS", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.dialogue(t, "AUTH TLS", "234 go")
			k.whisper(t, saneRequest)
		}},
		{name: "request of a connection that is no FTP", ask: func(t *testing.T, k *talk) {
			k.say(t, k.client, post)
			k.whisper(t, saneRequest)
		}},
		{name: "request at the end of a line that was split", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.say(t, k.client, "SITE ")
			k.whisper(t, saneRequest)
		}},
		{name: "request that is a retransmission in part", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.say(t, k.client, saneRequest+"12345678\r\n")
			again := k.segment(k.client, lab.ACK|lab.PSH, saneRequest)
			again.Seq -= uint32(len(saneRequest + "12345678\r\n"))
			k.send(t, k.client, again)
		}},
		{name: "request ahead of its place", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			ahead := k.segment(k.client, lab.ACK|lab.PSH, saneRequest)
			ahead.Seq += 1000
			k.send(t, k.client, ahead)
		}},
		{name: "request with FIN", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.send(t, k.client, k.segment(k.client, lab.ACK|lab.PSH|lab.FIN, saneRequest))
		}},
		{name: "request without PSH", ask: func(t *testing.T, k *talk) {
			k.say(t, k.server, "220 hello\r\n")
			k.send(t, k.client, k.segment(k.client, lab.ACK, saneRequest))
		}},
	} {
		for _, end := range victims {
			t.Run(tt.name+", "+end.family, func(t *testing.T) {
				eachMode(t, func(t *testing.T, config string) {
					s := newStage(t)
					start(t, s.Router, config)
					k := s.talk(testContext(t), netip.AddrPortFrom(end.client, clientPort), netip.AddrPortFrom(end.server, lab.ControlPort))
					k.handshake(t)
					tt.ask(t, k)
					// What comes across behind the request shows that it has come,
					// or was dropped.
					k.flags(t, k.client, lab.ACK)
					k.say(t, k.server, saneAnswer(telnet))
					s.expectClosed(t, end.client, netip.AddrPortFrom(end.server, telnet))
				})
			})
		}
	}
}

// whisper sends data of the client that may be dropped.
func (k *talk) whisper(t *testing.T, data string) {
	t.Helper()
	k.send(t, k.client, k.segment(k.client, lab.ACK|lab.PSH, data))
}

// TestAlmostSANE sends segments that differ from a request in one byte. They must pass,
// and the session after them is served.
func TestAlmostSANE(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, config string) {
		s := newStage(t)
		start(t, s.Router, config)
		for i, tt := range []struct{ name, data string }{
			{"7 bytes", saneRequest[:7]},
			{"9 bytes", saneRequest + "\x00"},
			{"16 bytes", saneRequest + saneRequest},
			{"another request", "\x00\x00\x00\x06\x00\x00\x00\x01"},
			{"a line of 8 bytes", "NOOP 1\r\n"},
			{"4 bytes", saneRequest[:4]},
		} {
			for _, end := range victims {
				t.Run(tt.name+", "+end.family, func(t *testing.T) {
					k := s.talk(testContext(t), netip.AddrPortFrom(end.client, uint16(clientPort+i)), netip.AddrPortFrom(end.server, lab.ControlPort))
					k.handshake(t)
					k.login(t)
					k.say(t, k.client, tt.data) // fails unless it comes across
					k.say(t, k.client, "\r\n")
					k.say(t, k.server, "500 what?\r\n500 what?\r\n")
				})
			}
		}
	})
}
