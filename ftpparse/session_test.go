package ftpparse

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// script plays a session: "C:" is text of the client, "S:" of the server, each
// one segment. A "~" behind the letter withholds the segment from the reader:
// it is lost, but the other side acknowledges it.
type script []string

// login is how most sessions begin.
var login = script{"S:220 ready\r\n", "C:USER a\r\n", "S:331 p\r\n", "C:PASS b\r\n", "S:230 ok\r\n"}

func (e Event) describe() string {
	names := map[EventKind]string{
		Announced: "announced", Rejected: "rejected", Withdrawn: "withdrawn",
		Opaque: "opaque", Cleared: "cleared", NotFTP: "not-ftp", Gap: "gap",
	}
	out := names[e.Kind]
	if e.Via != ViaNone {
		out += " " + e.Via.String()
	}
	switch {
	case e.Endpoint.Addr().IsValid():
		out += " " + e.Endpoint.String()
	case e.Endpoint.Port() != 0:
		out += fmt.Sprintf(" :%d", e.Endpoint.Port())
	}
	if e.Reason != "" {
		out += " " + string(e.Reason)
	}
	if e.BeforeLogin {
		out += " before-login"
	}
	return out
}

func describe(events []Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.describe())
	}
	return out
}

// play feeds a script to s, whose directions begin at the given sequence
// numbers.
func (sc script) play(s *Session, client, server uint32) []Event {
	var events []Event
	for _, step := range sc {
		who, text, _ := strings.Cut(step, ":")
		g := Segment{HasAck: true, Payload: []byte(text)}
		switch who[0] {
		case 'C':
			g.Dir, g.Seq, g.Ack = DirOriginal, client, server
			client += uint32(len(text))
		case 'S':
			g.Dir, g.Seq, g.Ack = DirReply, server, client
			server += uint32(len(text))
		}
		if !strings.HasSuffix(who, "~") {
			events = s.Segment(events, g)
		}
	}
	return events
}

func record(typ byte, content string) string {
	return string([]byte{typ, 3, 3, byte(len(content) >> 8), byte(len(content))}) + content
}

func TestSession(t *testing.T) {
	after := func(sc ...string) script { return append(append(script{}, login...), sc...) }
	tests := []struct {
		name   string
		middle bool // picked up in the middle
		// optional is Session.LoginOptional.
		optional bool
		script   script
		want     []string
	}{
		// Pairing.
		{
			name: "PORT is announced at once", script: after("C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "EPRT", script: after("C:EPRT |2|2001:db8::1|5000|\r\n", "S:200 ok\r\n"),
			want: []string{"announced EPRT [2001:db8::1]:5000"},
		},
		{
			name: "PORT refused", script: after("C:PORT 192,0,2,10,19,136\r\n", "S:501 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{
			name: "the refused one of two", script: after("C:PORT 192,0,2,10,19,136\r\nPORT 192,0,2,10,19,137\r\n", "S:200 ok\r\n500 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "announced PORT 192.0.2.10:5001", "withdrawn PORT :5001 refused"},
		},
		{
			name: "an earlier command refused", script: after("C:CWD x\r\nPORT 192,0,2,10,19,136\r\n", "S:550 no\r\n200 ok\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "PASV", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "P@SW", script: after("C:P@SW\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{name: "EPSV", script: after("C:EPSV\r\n", "S:229 ok (|||5000|)\r\n"), want: []string{"announced 229 :5000"}},
		{
			name: "LPSV", script: after("C:LPSV\r\n", "S:228 ok (4,4,198,51,100,20,2,19,136)\r\n"),
			want: []string{"announced 228 198.51.100.20:5000"},
		},
		{name: "229 for PASV", script: after("C:PASV\r\n", "S:229 ok (|||5000|)\r\n"), want: []string{"announced 229 :5000"}},
		{
			name: "227 for EPSV", script: after("C:EPSV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "228 for EPSV", script: after("C:EPSV\r\n", "S:228 ok (4,4,198,51,100,20,2,19,136)\r\n"),
			want: []string{"rejected 228 198.51.100.20:5000 unpaired"},
		},
		{
			name: "227 after EPSV was answered otherwise", script: after("C:EPSV\r\n", "S:202 hm\r\n", "C:NOOP\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 unpaired"},
		},
		{
			name: "PASV answered otherwise, then PORT refused", script: after("C:PASV\r\n", "S:202 hm\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:500 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{
			name: "250 between PASV and 227", script: after("C:PASV\r\n", "S:250 late\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "226 between PORT and 200", script: after("C:PORT 192,0,2,10,19,136\r\n", "S:226 late\r\n500 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{
			name: "426 and 226 for one transfer, the next command on its way", script: after("C:PORT 192,0,2,10,19,136\r\nRETR a\r\n", "S:200 ok\r\n150 here\r\n426 broken\r\n", "C:TYPE A\r\n", "S:226 done\r\n200 ok\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn transfer-ended", "announced 227 198.51.100.20:31240"},
		},
		{
			name: "unsolicited 227", script: after("S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 unpaired"},
		},
		{
			name: "a second 227", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n227 ok (198,51,100,20,122,9)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "rejected 227 198.51.100.20:31241 unpaired"},
		},
		{
			name: "227 after PASV was refused", script: after("C:PASV\r\n", "S:500 no\r\n227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 unpaired"},
		},
		{
			name: "pipelined", script: after("C:NOOP\r\nPASV\r\nNOOP\r\n", "S:200 a\r\n227 ok (198,51,100,20,122,8)\r\n200 b\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "226 between PASV and 227", script: after("C:PASV\r\n", "S:226 late\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "150 is no final reply", script: after("C:STAT\r\n", "S:150 here\r\n211 done\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "ABOR with one reply", script: after("C:PORT 192,0,2,10,19,135\r\n", "S:200 ok\r\n", "C:RETR a\r\n", "S:150 here\r\n", "C:ABOR\r\n", "S:226 aborted\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:200 ok\r\n", "C:RETR b\r\n", "S:550 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:4999", "withdrawn transfer-ended", "announced PORT 192.0.2.10:5000", "withdrawn transfer-ended"},
		},
		{
			name: "ABOR with two replies", script: after("C:EPSV\r\n", "S:500 no\r\n", "C:RETR a\r\n", "S:150 here\r\n", "C:ABOR\r\n", "S:426 broken\r\n226 aborted\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:500 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{name: "commands of the server", script: after("S:PORT 198,51,100,20,19,136\r\n"), want: nil},
		{name: "replies of the client", script: after("C:PASV\r\n", "C:227 ok (198,51,100,20,122,8)\r\n"), want: nil},
		{name: "error that quotes a 227", script: after("C:PASV\r\n", "S:500 227 ok (198,51,100,20,122,8)\r\n"), want: nil},
		{name: "malformed 227", script: after("C:PASV\r\n", "S:227 Logout.\r\n"), want: []string{"rejected 227 malformed"}},
		{
			name: "more pending commands than are kept", script: after("C:"+strings.Repeat("NOOP\r\n", 200)+"PASV\r\n", "S:"+strings.Repeat("200 ok\r\n", 200)+"227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "PORTs beyond what is kept, and no login under way", script: script{"S:220 r\r\n", "C:NOOP\r\n" + strings.Repeat("NOOP\r\n", 40) + "PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "replies to commands that are not kept", script: after("C:"+strings.Repeat("NOOP\r\n", 40)+"PORT 192,0,2,10,19,136\r\n", "S:"+strings.Repeat("200 ok\r\n", 40)+"500 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{
			name: "a 227 answers for what is not kept", script: after("C:"+strings.Repeat("NOOP\r\n", 40)+"PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:500 no\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "announced PORT 192.0.2.10:5000", "withdrawn PORT :5000 refused"},
		},
		{
			name: "an empty line is no command", script: after("C:\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:200 ok\r\n", "C:SIZE a\r\n", "S:550 no\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},

		// The end of a transfer.
		{
			name: "the final reply of the transfer", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:RETR a\r\n", "S:150 here\r\n", "S:226 done\r\n", "C:RETR b\r\n", "S:425 no\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "withdrawn transfer-ended"},
		},
		{
			name: "425, and the client asks again", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:RETR a\r\n", "S:425 no\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,9)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "withdrawn transfer-ended", "announced 227 198.51.100.20:31241"},
		},
		{
			name: "350 ends no transfer", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:STOR a\r\n", "S:350 more\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "no transfer follows", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:SIZE a\r\n", "S:550 no\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "passive, pipelined", script: after("C:PASV\r\nRETR a\r\nPASV\r\nRETR b\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "S:150 x\r\n226 x\r\n227 ok (198,51,100,20,122,9)\r\n", "S:150 x\r\n226 x\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "withdrawn transfer-ended", "announced 227 198.51.100.20:31241", "withdrawn transfer-ended"},
		},
		{
			name: "active, pipelined", script: after("C:PORT 192,0,2,10,19,136\r\nRETR a\r\nPORT 192,0,2,10,19,137\r\nRETR b\r\n", "S:200 x\r\n150 x\r\n226 x\r\n", "S:200 x\r\n150 x\r\n226 x\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "announced PORT 192.0.2.10:5001", "withdrawn PORT :5000 transfer-ended", "withdrawn transfer-ended"},
		},
		{
			name: "active, pipelined, the same port", script: after("C:PORT 192,0,2,10,19,136\r\nRETR a\r\nPORT 192,0,2,10,19,136\r\nRETR b\r\n", "S:200 x\r\n150 x\r\n226 x\r\n", "S:200 x\r\n150 x\r\n226 x\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "announced PORT 192.0.2.10:5000", "withdrawn transfer-ended"},
		},
		{
			name: "the reply to a transfer comes behind the next 227", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:RETR a\r\nPASV\r\n", "S:227 ok (198,51,100,20,122,9)\r\n", "C:RETR b\r\n", "S:226 a\r\n", "S:226 b\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "announced 227 198.51.100.20:31241", "withdrawn transfer-ended"},
		},
		{
			name: "ABOR of a transfer, PORT behind it", script: after("C:PORT 192,0,2,10,19,136\r\nRETR a\r\nABOR\r\nPORT 192,0,2,10,19,137\r\n", "S:200 x\r\n150 x\r\n226 x\r\n200 x\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "announced PORT 192.0.2.10:5001", "withdrawn PORT :5000 transfer-ended"},
		},
		{
			name: "ABOR of nothing", script: after("C:PORT 192,0,2,10,19,136\r\nABOR\r\n", "S:200 x\r\n226 x\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "500 for an empty line is not the transfer's", script: after("C:PORT 192,0,2,10,19,136\r\n\r\nRETR a\r\n", "S:200 x\r\n500 x\r\n150 x\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},

		{
			name: "more commands without a reply than any client sends", script: after("C:"+strings.Repeat("NOOP\r\n", maxUnanswered+maxPending), "C:PORT 192,0,2,10,19,138\r\n"),
			want: []string{"not-ftp too-many"},
		},
		{
			name: "as many, with a reply now and then", script: after("C:"+strings.Repeat("NOOP\r\n", maxUnanswered), "S:"+strings.Repeat("200 x\r\n", 100), "C:"+strings.Repeat("NOOP\r\n", 100), "C:PORT 192,0,2,10,19,138\r\n"),
			want: []string{"announced PORT 192.0.2.10:5002"},
		},

		// The default data port.
		{
			name: "transfer without any word on where", script: after("C:STOR a\r\n", "S:150 x\r\n226 x\r\n", "C:STOR b\r\n", "S:150 x\r\n"),
			want: []string{"announced default", "withdrawn transfer-ended", "announced default"},
		},
		{name: "such a transfer that the server refuses", script: after("C:STOR a\r\n", "S:550 x\r\n"), want: nil},
		{name: "such a transfer with a PORT behind it", script: after("C:STOR a\r\nPORT 1,2,3\r\n", "S:150 x\r\n"), want: []string{"rejected PORT malformed"}},
		{name: "150 ahead of the transfer's turn", script: after("C:NOOP\r\nSTOR a\r\n", "S:150 x\r\n200 x\r\n"), want: nil},
		{
			name: "two such, pipelined", script: after("C:STOR a\r\nSTOR b\r\n", "S:150 x\r\n226 x\r\n", "S:150 x\r\n226 x\r\n"),
			want: []string{"announced default", "withdrawn transfer-ended", "announced default", "withdrawn transfer-ended"},
		},
		{name: "230 that nobody asked for", script: script{"S:220 r\r\n230 in\r\n", "C:SYST\r\n", "S:215 x\r\n", "C:PORT 192,0,2,10,19,136\r\n"}, want: []string{"announced PORT 192.0.2.10:5000 before-login"}},
		{name: "transfer before the login", script: script{"S:220 r\r\n", "C:STOR a\r\n", "S:150 x\r\n"}, want: nil},
		{name: "transfer behind a PORT that does not count", script: after("C:PORT 1,2,3\r\n", "S:501 x\r\n", "C:STOR a\r\n", "S:150 x\r\n"), want: []string{"rejected PORT malformed"}},
		{name: "transfer behind a PASV that was refused", script: after("C:PASV\r\n", "S:501 x\r\n", "C:STOR a\r\n", "S:150 x\r\n"), want: nil},
		{name: "transfer behind a gap", script: after("C~:PORT 192,0,2,10,19,136\r\n", "S:200 x\r\n", "C:x\r\nSTOR a\r\n", "S:150 x\r\n"), want: []string{"gap"}},
		{name: "transfer in the middle", middle: true, script: script{"C:STOR a\r\n", "S:150 x\r\n"}, want: nil},

		// Multi-line replies.
		{
			name: "227 in several lines", script: after("C:PASV\r\n", "S:227-hello\r\n227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "tuple on the first of several lines", script: after("C:PASV\r\n", "S:227-ok (198,51,100,20,122,8)\r\n227 end\r\n"),
			want: []string{"rejected 227 malformed"},
		},
		{name: "227 inside another reply", script: after("C:PASV\r\n", "S:211-x\r\n227 ok (198,51,100,20,122,8)\r\n211 end\r\n"), want: nil},
		{
			name: "230 inside another reply", script: script{"S:220-x\r\n230 ok\r\n220 end\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "code alone ends it", script: after("C:FEAT\r\nPASV\r\n", "S:211-x\r\n211\r\n227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},

		// Login.
		{
			name: "before login", script: script{"S:220 r\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:530 no\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login", "withdrawn PORT :5000 refused"},
		},
		{
			name: "2xx to PASS is a login", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C:PASS b\r\n", "S:202 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "2xx to another command than PASS, behind more than are kept", script: script{"S:220 r\r\n", "C:" + strings.Repeat("NOOP\r\n", 33) + "PASS b\r\n", "S:" + strings.Repeat("200 ok\r\n", 33) + "530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "another user", script: after("C:USER b\r\n", "S:331 p\r\n", "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "another user refused", script: after("C:USER b\r\n", "S:530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "REIN", script: after("C:PORT 192,0,2,10,19,136\r\nREIN\r\nPASV\r\n", "S:200 ok\r\n220 again\r\n227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn reinitialized", "announced 227 198.51.100.20:31240 before-login"},
		},
		{
			name: "REIN refused", script: after("C:REIN\r\n", "S:502 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "QUIT", script: after("C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:QUIT\r\n", "S:221 bye\r\n"),
			want: []string{"announced 227 198.51.100.20:31240", "withdrawn quit"},
		},

		{
			name: "USER answered 200", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:200 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "USER answered 230", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:230 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "USER answered 220, by a proxy", script: script{"S:220 r\r\n", "C:USER a@h\r\n", "S:220 h\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "200 for another command than USER", script: script{"S:220 r\r\n", "C:NOOP\r\nUSER a\r\n", "S:200 ok\r\n331 p\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "one reply too many is no login", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C:\r\nNOOP\r\nPASS b\r\n", "S:500 empty\r\n200 ok\r\n530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "a line that the server takes for two is no login", script: script{"S:220 r\r\n", "C:NOOP\rNOOP\r\n", "S:200 ok\r\n200 ok\r\n"},
			want: []string{"not-ftp not-a-verb"},
		},
		{
			name: "a second line that the server takes for two is no login", script: script{"S:220 r\r\n", "C:FEAT\r\nNOOP\rNOOP\r\nPASS b\r\n", "S:500 no\r\n200 ok\r\n200 ok\r\n530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "a long line that the server takes for two is no login", script: script{"S:220 r\r\n", "C:NOOP " + strings.Repeat("x", 250) + "\r\nPASS b\r\n", "S:200 ok\r\n200 ok\r\n530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},

		// Ahead of the login.
		{
			name: "PORT ahead of the 230", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\nLIST\r\n", "S:331 p\r\n", "S:230 ok\r\n", "S:200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "EPRT and another ahead of the 230", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nEPRT |2|2001:db8::1|5000|\r\nLIST\r\nEPRT |2|2001:db8::1|5001|\r\n", "S:331 p\r\n", "S:230 ok\r\n", "S:200 ok\r\n226 x\r\n200 ok\r\n"},
			want: []string{"announced EPRT [2001:db8::1]:5000", "withdrawn transfer-ended", "announced EPRT [2001:db8::1]:5001"},
		},
		{
			name: "of two addresses ahead of the 230 the later counts", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPORT 203,0,113,1,19,136\r\nPORT 192,0,2,10,19,136\r\n", "S:331 p\r\n230 ok\r\n200 ok\r\n200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "PASV ahead of the 230", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPASV\r\nLIST\r\n", "S:331 p\r\n230 ok\r\n227 ok (198,51,100,20,122,8)\r\n"},
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "PORT ahead of a login that fails", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\n", "S:331 p\r\n530 no\r\n200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "PORT ahead of a login, refused", script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\n", "S:331 p\r\n230 ok\r\n500 no\r\n"},
			want: []string{"rejected PORT 192.0.2.10:5000 refused"},
		},
		{
			name: "PORT before PASS", script: script{"S:220 r\r\n", "C:USER a\r\nPORT 192,0,2,10,19,136\r\nPASS b\r\n", "S:331 p\r\n200 ok\r\n230 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "PORT ahead of a login that nobody needs", optional: true, script: script{"S:220 r\r\n", "C:USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\n", "S:331 p\r\n230 ok\r\n200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},

		// EPSV ALL.
		{
			name: "EPSV ALL", script: after("C:EPSV ALL\r\n", "S:200 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:501 no\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:EPSV\r\n", "S:229 ok (|||5000|)\r\n"),
			want: []string{"rejected PORT 192.0.2.10:5000 epsv-all", "rejected 227 198.51.100.20:31240 epsv-all", "announced 229 :5000"},
		},
		{
			name: "227 for EPSV after EPSV ALL", script: after("C:EPSV ALL\r\n", "S:200 ok\r\n", "C:EPSV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 epsv-all"},
		},
		{
			name: "EPSV ALL refused", script: after("C:EPSV ALL\r\n", "S:500 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},

		// It must look like FTP.
		{
			name: "client speaks first", script: script{"C:USER a\r\n", "S:220 r\r\n331 p\r\n", "C:PASS b\r\n", "S:230 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "client speaks first, 120 and a greeting in lines", script: script{"C:FEAT\r\nUSER a\r\n", "S:120 wait\r\n", "S:220-hi\r\n230 ok\r\n220 go\r\n", "S:500 no\r\n331 p\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "client says everything first", script: script{"C:USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\nLIST\r\n", "S:220 r\r\n", "S:331 p\r\n", "S:230 ok\r\n", "S:200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "client speaks first, PORT before the greeting", script: script{"C:PORT 192,0,2,10,19,136\r\n", "S:220 r\r\n", "S:200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "client speaks first, PORT before the greeting, login optional", optional: true, script: script{"C:PORT 192,0,2,10,19,136\r\n", "S:220 r\r\n"},
			want: nil,
		},
		{name: "client speaks first, no greeting", script: script{"C:USER a\r\n", "S:331 p\r\n", "S:220 r\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "client speaks first, 227 for a greeting", script: script{"C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "227 for a greeting", script: script{"S:227 ok (198,51,100,20,122,8)\r\n", "C:PASV\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "client speaks first, a web server", script: script{"C:USER a\r\n", "S:HTTP/1.1 400 Bad Request\r\n\r\n220 r\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "client speaks first, and not in FTP", script: script{"C:OPTS / HTTP/1.1\r\n", "S:220 r\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "client speaks first, with a slip", script: script{"C:hello\r\n", "S:220 r\r\n500 no\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "a banner ahead of the greeting", script: append(script{"S:welcome\r\n\r\n"}, after("C:EPSV\r\n", "S:229 ok (|||5000|)\r\n")...), want: []string{"announced 229 :5000"}},
		{
			name: "a slip", script: append(script{"S:220 r\r\n", "C:hello\r\n", "S:500 no\r\n"}, after("C:EPSV\r\n", "S:229 ok (|||5000|)\r\n")[1:]...),
			want: []string{"announced 229 :5000"},
		},
		{
			name: "a slip, and all that follows at once", script: script{"S:220 r\r\n", "C:hello\r\nUSER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\n", "S:500 no\r\n331 p\r\n230 ok\r\n200 ok\r\n"},
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "a slip that is not refused yet", optional: true, script: script{"S:220 r\r\n", "C:hello\r\nPORT 192,0,2,10,19,136\r\n"},
			want: nil,
		},
		{name: "a slip that is not refused", script: script{"S:220 r\r\n", "C:hello\r\nPASV\r\n", "S:200 hm\r\n227 ok (198,51,100,20,122,8)\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{name: "a slip answered with a 227", script: script{"S:220 r\r\n", "C:hello\r\nPASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{name: "a slip answered with 234", script: script{"S:220 r\r\n", "C:hello\r\nAUTH TLS\r\n", "S:234 go\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{name: "two slips", script: script{"S:220 r\r\n", "C:hello\r\n", "S:500 no\r\n", "C:hello\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{name: "a gap behind a slip", script: script{"S:220 r\r\n", "C:hello\r\n", "S~:500 no\r\n", "C:USER a\r\n"}, want: []string{"gap", "not-ftp no-greeting"}},
		{name: "HTTP with a method that is a command", script: script{"S:220 r\r\n", "C:USER / HTTP/1.1\r\nHost: x\r\n\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{name: "SMTP", script: script{"S:220 r\r\n", "C:EHLO x\r\n"}, want: []string{"not-ftp not-a-verb"}},
		{
			name: "OPEN, to a proxy", script: script{"S:220 r\r\n", "C:OPEN h\r\n", "S:220 h\r\n", "C:USER a\r\n", "S:230 ok\r\n", "C:EPSV\r\n", "S:229 ok (|||5000|)\r\n"},
			want: []string{"announced 229 :5000"},
		},
		{
			name: "a blank before the first verb", script: script{"S:220 r\r\n", "C: USER a\r\n", "S:331 p\r\n", "C:PASS b\r\n", "S:230 ok\r\n", "C:EPSV\r\n", "S:229 ok (|||5000|)\r\n"},
			want: []string{"announced 229 :5000"},
		},
		{
			name: "HTTP", script: script{"S:220 r\r\n", "C:POST / HTTP/1.1\r\nHost: x\r\n\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"not-ftp not-a-verb"},
		},
		{name: "no reply code in the greeting", script: script{"S:SSH-2.0-x\r\n", "C:USER a\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "refusing greeting", script: script{"S:530 no\r\n", "C:USER a\r\n"}, want: []string{"not-ftp no-greeting"}},
		{name: "120 greeting", script: append(script{"S:120 wait\r\n"}, after("C:EPSV\r\n", "S:229 ok (|||5000|)\r\n")...), want: []string{"announced 229 :5000"}},
		{
			name: "in the middle nothing is known of the begin", middle: true, script: script{"C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"},
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name: "in the middle replies must pair, too", middle: true, script: script{"S:227 ok (198,51,100,20,122,8)\r\n"},
			want: []string{"rejected 227 198.51.100.20:31240 unpaired"},
		},

		// Lines.
		{name: "bare LF", script: after("C:NOOP\nPORT 192,0,2,10,19,136\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "bare CR is no line end", script: after("C:NOOP\rPORT 192,0,2,10,19,136\r\n"), want: nil},
		{name: "bare CR in a tuple", script: after("C:PORT 192,0,2,10,19\r,136\r\n"), want: []string{"rejected PORT malformed"}},
		{name: "several CRs before the line end", script: after("C:PORT 192,0,2,10,19,136\r\r\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{
			name: "several CRs before the line end, in pieces", script: after("C:PASV\r", "C:\r", "C:\n", "S:227 ok (198,51,100,20,122,8)\r", "S:\r\n"),
			want: []string{"announced 227 198.51.100.20:31240"},
		},
		{
			name:   "NUL behind the server's line ends",
			script: script{"S:220 r\r\n\x00", "C:USER a\r\n", "S:331 p\r\n\x00", "C:PASS b\r\n", "S:230 ok\r\n", "S:\x00", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n\x00"},
			want:   []string{"announced 227 198.51.100.20:31240"},
		},
		{name: "two NULs", script: after("C:PASV\r\n", "S:\x00\x00227 ok (198,51,100,20,122,8)\r\n"), want: nil},
		{name: "NUL behind the client's line end", script: after("C:NOOP\r\n\x00PORT 192,0,2,10,19,136\r\n"), want: nil},
		{name: "NUL in a tuple", script: after("C:PORT 192,0,2,10,19\x00,136\r\n"), want: []string{"rejected PORT malformed"}},
		{
			name: "NUL in the text of a 227", script: after("C:PASV\r\n", "S:227 o\x00k (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 control-char"},
		},
		{
			name: "PASV with a NUL", script: after("C:PASV \x00\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 unpaired"},
		},
		{
			name: "line behind an overlong one", script: after("C:SIZE "+strings.Repeat("A", 5000), "C:\r\nPORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "overlong 227 in one segment", script: after("C:PASV\r\n", "S:227 (198,51,100,20,122,8)"+strings.Repeat(" ", 5000)+"\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 control-char"},
		},
		{
			name: "overlong 227 in two segments", script: after("C:PASV\r\n", "S:227 (198,51,100,20,122,8)", "S:"+strings.Repeat(" ", 5000)+"\r\n"),
			want: []string{"rejected 227 198.51.100.20:31240 control-char"},
		},

		// Telnet.
		{name: "IAC IP, IAC DM before ABOR", script: after("C:SIZE a\r\n", "C:\xff\xf4\xff\xf2ABOR\r\n", "S:226 aborted\r\n", "C:PASV\r\n", "S:500 no\r\n"), want: nil},
		{name: "IAC NOP inside a verb", script: after("C:PO\xff\xf1RT 192,0,2,10,19,136\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "IAC at a cut", script: after("C:PO\xff", "C:\xf1RT 192,0,2,10,19,136\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "IAC DO x", script: after("C:\xff\xfd\x01PORT 192,0,2,10,19,136\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "IAC DO does not swallow a line end", script: after("C:NOOP\xff\xfd\nPORT 192,0,2,10,19,136\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "escaped 255", script: after("C:PORT 192,0,2,10,19,136\xff\xff\r\n"), want: []string{"rejected PORT malformed"}},
		{name: "255 as a letter", script: after("C:PORT 192,0,2,10,19,136\xff1\r\n"), want: []string{"rejected PORT malformed"}},

		// Lost bytes.
		{
			name: "PASV before a gap", script: after("C:PASV\r\n", "S~:200 lost\r\n", "C:NOOP\r\n", "S:x\r\n227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"gap", "rejected 227 198.51.100.20:31240 unpaired"},
		},
		{
			name: "the line at a gap is not read", script: after("C:PASV\r\n", "S~:200 lost ", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"gap"},
		},
		{
			name: "a gap may have held the login", script: append(append(script{}, login[:4]...), "S~:230 ok\r\n", "C:NOOP\r\n", "S:200 ok\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"gap", "announced 227 198.51.100.20:31240"},
		},
		{
			name: "a gap may have held the login, and the server accepts PORT", script: append(append(script{}, login[:4]...), "S~:230 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:x\r\n200 ok\r\n"),
			want: []string{"gap", "announced PORT 192.0.2.10:5000"},
		},
		{
			name: "a gap may have held the login, and the server refuses PORT", script: append(append(script{}, login[:4]...), "S~:530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n", "S:x\r\n530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"gap", "rejected PORT 192.0.2.10:5000 refused", "announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "a gap of the server without a login under way", script: script{"S:220 r\r\n", "C:FEAT\r\n", "S~:500 no\r\n", "C:NOOP\r\n", "S:x\r\n200 ok\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"},
			want: []string{"gap", "announced 227 198.51.100.20:31240 before-login"},
		},
		{
			name: "a gap of the client before the login", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C~:NOOP\r\n", "S:200 ok\r\n", "C:x\r\nPORT 192,0,2,10,19,136\r\n", "S:500 x\r\n530 no\r\n"},
			want: []string{"gap", "announced PORT 192.0.2.10:5000 before-login", "withdrawn PORT :5000 refused"},
		},
		{
			name: "the reply to a lost command is no login", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C~:NOOP\r\n", "S:1", "C:x\r\nPASS b\r\n", "S:0\r\n200 ok\r\n530 no\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"gap", "announced PORT 192.0.2.10:5000 before-login"},
		},
		{
			name: "230 is one, whatever was lost before", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C~:NOOP\r\n", "S:200 ok\r\n", "C:x\r\nPASS b\r\n", "S:230 ok\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"gap", "announced PORT 192.0.2.10:5000"},
		},
		{
			name: "PASS and its reply are lost", script: script{"S:220 r\r\n", "C:USER a\r\n", "S:331 p\r\n", "C~:PASS b\r\n", "S~:230 ok\r\n", "C:x\r\nSYST\r\n", "S:x\r\n215 u\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"},
			want: []string{"gap", "gap", "announced 227 198.51.100.20:31240"},
		},
		{
			name: "replies to what came before the client's gap", script: after("C:CWD a\r\nCWD b\r\n", "C~:NOOP\r\n", "S:2", "C:x\r\nPORT 192,0,2,10,19,136\r\n", "S:50 a\r\n550 b\r\n200 ok\r\n"),
			want: []string{"gap", "announced PORT 192.0.2.10:5000"},
		},
		{
			name: "227 in a multi-line reply, with a gap of the client", script: after("C:STAT\r\n", "S:213-x\r\n", "C~:NOOP\r\n", "S: y\r\n", "C:x\r\nPASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n213 end\r\n", "S:227 ok (198,51,100,20,122,9)\r\n"),
			want: []string{"gap", "announced 227 198.51.100.20:31241"},
		},
		{
			name: "227 in a multi-line reply, with a gap of the server", script: after("C:STAT\r\n", "S:213-x\r\n", "S~: lost", "C:PASV\r\n", "S:x\r\n227 ok (198,51,100,20,122,8)\r\n213 end\r\n227 ok (198,51,100,20,122,9)\r\n"),
			want: []string{"gap", "announced 227 198.51.100.20:31241"},
		},
		{
			name: "227 in a multi-line reply whose begin is lost", script: after("C:STAT\r\n", "S~:213-x\r\n", "C:PASV\r\n", "S:x\r\n227 ok (198,51,100,20,122,8)\r\n213 end\r\n"),
			want: []string{"gap"},
		},
		{
			name: "a command and its reply are lost, and the next command with them", script: after("C~:CWD a\r\n", "S~:250 ok\r\n", "C:TYPE I\r\n", "S:x\r\n200 ok\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"gap", "gap", "announced 227 198.51.100.20:31240"},
		},
		{
			name: "a 227 settles what an earlier gap left open", script: after("C~:NOOP\r\n", "S:200 ok\r\n", "C:x\r\nPASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n", "C:CWD a\r\n", "S~:250 ok\r\n", "C:PASV\r\n", "S:x\r\n227 ok (198,51,100,20,122,9)\r\n"),
			want: []string{"gap", "announced 227 198.51.100.20:31240", "gap", "announced 227 198.51.100.20:31241"},
		},
		{
			name: "the server's gap behind one of the client, which may hide a STAT", script: after("C~:STAT a\r\n", "S:2", "C:x\r\n", "S~:13-a\r\n", "C:PASV\r\n", "S:x\r\n227 ok (198,51,100,20,122,8)\r\n213 end\r\n"),
			want: []string{"gap", "gap"},
		},
		{
			name: "the end of a multi-line reply is lost", script: after("C:STAT\r\n", "S:213-x\r\n", "S~:213 end\r\n", "C:TYPE I\r\n", "S:x\r\n200 ok\r\n", "C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n"),
			want: []string{"gap", "announced 227 198.51.100.20:31240"},
		},
		{name: "a gap before the first command", script: script{"S~:220 r\r\n", "C:USER a\r\n"}, want: []string{"gap", "not-ftp no-greeting"}},

		// TLS.
		{
			name: "AUTH TLS", script: script{"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n", "C:" + record(22, "x\r\nPORT 192,0,2,10,19,136\r\n"), "S:" + record(22, "\r\n227 (198,51,100,20,122,8)\r\n")},
			want: []string{"withdrawn auth", "opaque auth"},
		},
		{
			name: "clear text behind 234 is not read", script: script{"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n", "C:PORT 192,0,2,10,19,136\r\n"},
			want: []string{"withdrawn auth", "opaque auth"},
		},
		{
			name: "pipelined behind AUTH", script: after("C:AUTH TLS\r\nPORT 192,0,2,10,19,136\r\nPASV\r\n", "S:234 go\r\n227 (198,51,100,20,122,8)\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000", "withdrawn auth", "opaque auth"},
		},
		{
			name: "AUTH refused", script: append(append(script{"S:220 r\r\n", "C:AUTH SSL\r\n", "S:530 no\r\n"}, login[1:]...), "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"announced PORT 192.0.2.10:5000"},
		},
		{
			name: "AUTH GSSAPI stays in clear text", script: append(append(script{"S:220 r\r\n", "C:AUTH GSSAPI\r\n", "S:334 go\r\n"}, login[1:]...), "C:PORT 192,0,2,10,19,136\r\n"),
			want: []string{"withdrawn auth", "announced PORT 192.0.2.10:5000"},
		},
		{name: "234 without AUTH", script: after("S:234 go\r\n", "C:PORT 192,0,2,10,19,136\r\n"), want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "CCC", script: script{
			"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n",
			"C:" + record(22, "hello"), "S:" + record(22, "hello") + record(20, "\x01") + record(22, "fin"),
			"C:" + record(23, "CCC")[:3], "C:" + record(23, "CCC")[3:], "S:" + record(23, "200"), "S:" + record(21, "close"), "C:" + record(21, "close"),
			"C:PASV\r\n", "S:227 ok (198,51,100,20,122,8)\r\n",
		}, want: []string{"withdrawn auth", "opaque auth", "cleared", "announced 227 198.51.100.20:31240"}},
		{name: "one direction alone back in clear text", script: script{
			"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n", "C:" + record(22, "hello"), "S:" + record(22, "hello"),
			"C:" + record(21, "close"), "C:PASV\r\n", "S:" + record(23, "227 ok (198,51,100,20,122,8)\r\n"),
		}, want: []string{"withdrawn auth", "opaque auth"}},
		{name: "a record that is too long", script: script{
			"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n", "C:" + record(22, "hello") + "\x16\x03\x03\xff\xff", "C:PORT 192,0,2,10,19,136\r\n",
		}, want: []string{"withdrawn auth", "opaque auth"}},
		{name: "empty records, a header cut twice, close_notify of TLS 1.3", script: script{
			"S:220 r\r\n", "C:AUTH TLS\r\n", "S:234 go\r\n", "C:" + record(23, "") + record(23, "") + "\x17", "C:\x03\x03\x00", "C:\x01", "C:xPASV\r\n", "S:" + record(23, "") + "227 ok (198,51,100,20,122,8)\r\n",
		}, want: []string{"withdrawn auth", "opaque auth", "cleared", "announced 227 198.51.100.20:31240"}},
		{name: "TLS in the middle", middle: true, script: script{"C:" + record(23, "x"), "S:" + record(23, "y")}, want: []string{"opaque picked-up"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Session
			s.LoginOptional = tt.optional
			if !tt.middle {
				s.Start(0xfffffff0, 0xffffffe0)
			}
			events := tt.script.play(&s, 0xfffffff0, 0xffffffe0)
			if diff := cmp.Diff(tt.want, describe(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			s.Release()
			if n := s.Buffered(); n != 0 {
				t.Errorf("%d bytes buffered after Release", n)
			}
		})
	}
}

func TestSessionOneByteASegment(t *testing.T) {
	for _, sc := range []script{
		append(append(script{}, login...), "C:PORT 192,0,2,10,19,136\r\n", "S:200 ok\r\n"),
		append(append(script{}, login...), "C:EPSV\r\n", "S:229-x\r\n229 ok (|||5000|)\r\n"),
	} {
		var cut script
		for _, step := range sc {
			for i := 2; i < len(step); i++ {
				cut = append(cut, step[:2]+step[i:i+1])
			}
		}
		var whole, bytewise Session
		whole.Start(1, 1)
		bytewise.Start(1, 1)
		if diff := cmp.Diff(describe(sc.play(&whole, 1, 1)), describe(cut.play(&bytewise, 1, 1))); diff != "" {
			t.Errorf("events differ from the uncut session (-uncut +cut):\n%s", diff)
		}
	}
}

// TestConcurrentSessions reads sessions in several goroutines, as the queues of a daemon do:
// what one keeps in a buffer of the shared pools must not reach another.
func TestConcurrentSessions(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		long := strings.Repeat("x", 50*(i+1))
		sc := script{
			"S:220 ready\r\n", fmt.Sprintf("C:USER %s\r\nPASS b\r\nPORT 192,0,2,%d,19,%d\r\nRETR %s", long, i, i, long), "C:\r\nNOOP",
			"S:331 p\r\n230 ok\r\n20", "S:0 ok\r\n",
		}
		want := []string{fmt.Sprintf("announced PORT 192.0.2.%d:%d", i, 19<<8+i)}
		wg.Go(func() {
			for range 1000 {
				var s Session
				s.Start(1, 1)
				if diff := cmp.Diff(want, describe(sc.play(&s, 1, 1))); diff != "" {
					t.Errorf("session %d (-want +got):\n%s", i, diff)
					return
				}
				s.Release()
			}
		})
	}
	wg.Wait()
}

// TestSequenceSpace gives the reader segments as TCP may deliver them.
func TestSequenceSpace(t *testing.T) {
	const port = "PORT 192,0,2,10,19,136\r\n"
	type seg struct {
		at   int // offset into the client's stream after the login
		data string
	}
	tests := []struct {
		name string
		segs []seg
		want []string
	}{
		{"in order", []seg{{0, port}}, []string{"announced PORT 192.0.2.10:5000"}},
		{"retransmitted", []seg{{0, port}, {0, port}}, []string{"announced PORT 192.0.2.10:5000"}},
		{"retransmitted with other bytes", []seg{{0, "NOOP 92,0,2,10,19,136\r\n\r\n"}, {0, port}}, nil},
		{"retransmitted from the middle of a line", []seg{{0, "STAT PORT 192,0,2,10,19,136\r\n"}, {5, port}}, nil},
		{"out of order", []seg{{10, port[10:]}, {0, port[:10]}}, []string{"announced PORT 192.0.2.10:5000"}},
		{"three pieces backwards", []seg{{20, port[20:]}, {10, port[10:20]}, {0, port[:10]}}, []string{"announced PORT 192.0.2.10:5000"}},
		{"overlap, the first copy wins", []seg{{5, port[5:]}, {0, "PORT 10,9,9,9,99,99,9\r\n\r\n"}}, []string{"announced PORT 192.0.2.10:5000"}},
		{
			"overlap inside what is held",
			[]seg{{5, port[5:10]}, {15, port[15:]}, {3, "T " + "YYYYY" + port[10:15] + "ZZZZ"}, {0, "PORXX"}},
			[]string{"announced PORT 192.0.2.10:5000"},
		},
		{"far ahead is not this connection's", []seg{{1 << 21, "x\r\n" + port}, {0, port}}, []string{"announced PORT 192.0.2.10:5000"}},
		{"more than a window waits", []seg{{1, strings.Repeat("x", 9000) + "\r\n" + port}}, []string{"gap", "announced PORT 192.0.2.10:5000"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Session
			const client, server = 0xffffffd0, 7
			s.Start(client, server)
			login.play(&s, client, server)
			base := uint32(client)
			for _, step := range login {
				if step[0] == 'C' {
					base += uint32(len(step) - 2)
				}
			}
			var events []Event
			for _, g := range tt.segs {
				events = s.Segment(events, Segment{Dir: DirOriginal, Seq: base + uint32(g.at), Payload: []byte(g.data)})
			}
			if diff := cmp.Diff(tt.want, describe(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFIN gives the client's FIN in and out of its place.
func TestFIN(t *testing.T) {
	const port = "PORT 192,0,2,10,19,136\r\n"
	type seg struct {
		at   int // offset into the client's stream after the login
		data string
		fin  bool
	}
	tests := []struct {
		name     string
		segs     []seg
		want     []string
		finished bool
	}{
		{name: "in its place", segs: []seg{{at: 0, fin: true}}, finished: true},
		{name: "behind a line", segs: []seg{{at: 0, data: port, fin: true}}, want: []string{"announced PORT 192.0.2.10:5000"}, finished: true},
		{name: "ahead of the line before it", segs: []seg{{at: len(port), fin: true}, {at: 0, data: port}}, want: []string{"announced PORT 192.0.2.10:5000"}, finished: true},
		{name: "behind its place", segs: []seg{{at: -4, fin: true}, {at: 0, data: port}}, want: []string{"announced PORT 192.0.2.10:5000"}},
		{name: "far ahead of its place", segs: []seg{{at: 5000, fin: true}, {at: 0, data: port}}, want: []string{"announced PORT 192.0.2.10:5000"}},
		{
			name: "ahead, and bytes behind it", segs: []seg{{at: 6, fin: true}, {at: 0, data: "NOOP\r\n" + port}, {at: 6 + len(port), data: port}},
			want: []string{"announced PORT 192.0.2.10:5000", "announced PORT 192.0.2.10:5000"},
		},
		{
			name: "ahead, and the real one later", segs: []seg{{at: 5000, fin: true}, {at: 0, data: port}, {at: len(port), fin: true}},
			want: []string{"announced PORT 192.0.2.10:5000"}, finished: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Session
			s.Start(0xffffffd0, 7)
			login.play(&s, 0xffffffd0, 7)
			base, _ := s.Next(DirOriginal)
			var events []Event
			for _, g := range tt.segs {
				events = s.Segment(events, Segment{Dir: DirOriginal, Seq: base + uint32(g.at), FIN: g.fin, Payload: []byte(g.data)})
			}
			if diff := cmp.Diff(tt.want, describe(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if got := s.Finished(DirOriginal); got != tt.finished {
				t.Errorf("Finished = %v", got)
			}
			if s.Finished(DirReply) {
				t.Error("the server has finished, too")
			}
		})
	}
}

func TestSegmentAllocatesNothing(t *testing.T) {
	var s Session
	s.Start(1, 1)
	login.play(&s, 1, 1)
	client, _ := s.Next(DirOriginal)
	server, _ := s.Next(DirReply)
	events := make([]Event, 0, 8)
	buf := make([]byte, 0, 256)
	step := func(dir Direction, text string) {
		g := Segment{Dir: dir, Payload: append(buf, text...), HasAck: true, Seq: client, Ack: server}
		if dir == DirReply {
			g.Seq, g.Ack = server, client
		}
		events = s.Segment(events[:0], g)
		if dir == DirReply {
			server += uint32(len(text))
		} else {
			client += uint32(len(text))
		}
	}
	cycle := func() {
		step(DirOriginal, "NOOP\r\n")
		step(DirReply, "200 ok\r\n")
		step(DirOriginal, "PA")
		step(DirOriginal, "SV\r\n")
		step(DirReply, "227 Entering Passive Mode (198,51,100,20,122,8).\r\n")
		step(DirOriginal, "PORT 192,0,2,10,19,136\r\n")
		step(DirReply, "500 no\r\n")
		step(DirOriginal, "EPRT |2|2001:db8::1|5000|\r\n")
		step(DirReply, "200 ok\r\n")
		step(DirOriginal, "LIST\r\nPORT 192,0,2,10,19,137\r\n")
		step(DirReply, "226 ok\r\n200 ok\r\n")
		step(DirOriginal, "LIST\r\n")
		step(DirReply, "226 ok\r\n")
		step(DirOriginal, "USER a\r\nPASS b\r\nPORT 192,0,2,10,19,136\r\n")
		step(DirReply, "331 p\r\n230 ok\r\n200 ok\r\n")
	}
	cycle()
	if n := testing.AllocsPerRun(100, cycle); n != 0 {
		t.Errorf("%v allocations a cycle, want 0", n)
	}
}

func TestSessionSize(t *testing.T) {
	if n := unsafe.Sizeof(Session{}); n > 120 {
		t.Errorf("a session takes %d bytes, want at most 120", n)
	}
}
