package ftpparse

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/corpora"
)

func ep(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// port is an endpoint without address, as 229 gives it.
func port(p uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, p) }

var compareAddrPort = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// What ParseCommand and ParseReply find in a line, and what is read on from there.
type (
	command struct {
		Verb     Verb
		Endpoint netip.AddrPort
		Err      Reason
	}
	reply struct {
		Code     Code
		More     bool
		Endpoint netip.AddrPort
		Err      Reason
	}
)

func readCommand(line []byte) (c command) {
	if c.Verb = ParseCommand(line); c.Verb.Via() != ViaNone {
		c.Endpoint, c.Err = c.Verb.Via().Endpoint(line)
	}
	return c
}

func readReply(line []byte) (r reply) {
	if r.Code, r.More = ParseReply(line); !r.More && r.Code.Via() != ViaNone {
		r.Endpoint, r.Err = r.Code.Via().Endpoint(line)
	}
	return r
}

func TestParseCommand(t *testing.T) {
	tests := []struct {
		name, line string
		want       command
	}{
		{"PORT", "PORT 192,168,0,211,154,208", command{Verb: verbPORT, Endpoint: ep("192.168.0.211:39632")}},
		{"any case", "pOrT 192,0,2,10,19,136", command{Verb: verbPORT, Endpoint: ep("192.0.2.10:5000")}},
		{"blanks around the argument", "PORT   192,0,2,10,19,136  ", command{Verb: verbPORT, Endpoint: ep("192.0.2.10:5000")}},
		{"leading zeros are decimal", "PORT 192,000,002,010,019,136", command{Verb: verbPORT, Endpoint: ep("192.0.2.10:5000")}},
		{"blank before the verb", " PORT 192,0,2,10,19,136", command{}},
		{"tab behind the verb", "PORT\t192,0,2,10,19,136", command{}},
		{"verb runs on", "PORTS 192,0,2,10,19,136", command{}},
		{"no argument", "PORT", command{Verb: verbPORT, Err: Malformed}},
		{"blanks around a comma", "PORT 192,0,2 , 10, 19,136", command{Verb: verbPORT, Endpoint: ep("192.0.2.10:5000")}},
		{"blank instead of a comma", "PORT 192 0,2,10,19,136", command{Verb: verbPORT, Err: Malformed}},
		{"blank inside a number", "PORT 192,0,2,1 0,19,136", command{Verb: verbPORT, Err: Malformed}},
		{"tab inside", "PORT 192,0,2,10,\t19,136", command{Verb: verbPORT, Err: Malformed}},
		{"sign", "PORT 192,0,2,10,+19,136", command{Verb: verbPORT, Err: Malformed}},
		{"five numbers", "PORT 192,0,2,10,19", command{Verb: verbPORT, Err: Malformed}},
		{"seven numbers", "PORT 192,0,2,10,19,136,1", command{Verb: verbPORT, Err: Malformed}},
		{"empty number", "PORT 192,,2,10,19,136", command{Verb: verbPORT, Err: Malformed}},
		{"letter behind", "PORT 10,225,1,89,124,22_", command{Verb: verbPORT, Err: Malformed}},
		{"octet over 255", "PORT 192,0,2,256,19,136", command{Verb: verbPORT, Err: BadAddress}},
		{"port octet over 255", "PORT 192,0,2,10,256,22", command{Verb: verbPORT, Err: BadPort}},
		{"four digits", "PORT 192,0,2,0010,19,136", command{Verb: verbPORT, Err: Malformed}},
		{"u32 wrap", "PORT 192,0,2,10,4294967296,22", command{Verb: verbPORT, Err: Malformed}},
		{"port 0", "PORT 192,0,2,10,0,0", command{Verb: verbPORT, Err: BadPort}},

		{"EPRT v4", "EPRT |1|132.235.1.2|6275|", command{Verb: verbEPRT, Endpoint: ep("132.235.1.2:6275")}},
		{"EPRT v6", "EPRT |2|1080::8:800:200C:417A|5282|", command{Verb: verbEPRT, Endpoint: ep("[1080::8:800:200c:417a]:5282")}},
		{"EPRT other delimiter", "EPRT !1!192.0.2.10!5000!", command{Verb: verbEPRT, Endpoint: ep("192.0.2.10:5000")}},
		{"EPRT dot as delimiter", "EPRT .1.192.0.2.10.5000.", command{Verb: verbEPRT, Endpoint: ep("192.0.2.10:5000")}},
		{"EPRT mapped", "EPRT |2|::ffff:192.0.2.10|5000|", command{Verb: verbEPRT, Endpoint: ep("192.0.2.10:5000")}},
		{"EPRT mapped, in hexadecimal", "EPRT |2|::ffff:c000:20a|5000|", command{Verb: verbEPRT, Endpoint: ep("192.0.2.10:5000")}},
		{"EPRT compatible, which is no IPv4 address", "EPRT |2|::192.0.2.10|5000|", command{Verb: verbEPRT, Endpoint: ep("[::192.0.2.10]:5000")}},
		{"EPRT digit as delimiter", "EPRT 111921.0.2.10150001", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT blank as delimiter", "EPRT", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT colon as delimiter of v6", "EPRT :2:fe80::1:5000:", command{Verb: verbEPRT, Err: BadAddress}},
		{"EPRT zone", "EPRT |2|fe80::1%eth0|5000|", command{Verb: verbEPRT, Err: BadAddress}},
		{"EPRT family 3", "EPRT |3|192.0.2.10|5000|", command{Verb: verbEPRT, Err: BadFamily}},
		{"EPRT v4 as family 2", "EPRT |2|192.0.2.10|5000|", command{Verb: verbEPRT, Err: BadAddress}},
		{"EPRT v6 as family 1", "EPRT |1|fe80::1|5000|", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT u16 wrap", "EPRT |1|192.0.2.10|65558|", command{Verb: verbEPRT, Err: BadPort}},
		{"EPRT port 0", "EPRT |1|192.0.2.10|0|", command{Verb: verbEPRT, Err: BadPort}},
		{"EPRT six digits", "EPRT |1|192.0.2.10|005000|", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT without its last delimiter", "EPRT |1|192.0.2.10|5000", command{Verb: verbEPRT, Endpoint: ep("192.0.2.10:5000")}},
		{"EPRT v6 without its last delimiter", "EPRT |2|fe80::1|5000 ", command{Verb: verbEPRT, Endpoint: ep("[fe80::1]:5000")}},
		{"EPRT with another last delimiter", "EPRT |1|192.0.2.10|5000!", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT without a port", "EPRT |1|192.0.2.10|", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT blank inside", "EPRT |1|192.0. 2.10|5000|", command{Verb: verbEPRT, Err: Malformed}},
		{"EPRT text behind", "EPRT |1|192.0.2.10|5000|1", command{Verb: verbEPRT, Err: Malformed}},

		{"LPRT v4", "LPRT 4,4,132,235,1,2,2,24,131", command{Verb: verbLPRT, Endpoint: ep("132.235.1.2:6275")}},
		{"LPRT v6", "LPRT 6,16,16,128,0,0,0,0,0,0,0,8,8,0,32,12,65,122,2,20,162", command{Verb: verbLPRT, Endpoint: ep("[1080::8:800:200c:417a]:5282")}},
		{"LPRT unknown family", "LPRT 5,4,132,235,1,2,2,24,131", command{Verb: verbLPRT, Err: BadFamily}},
		{"LPRT address length", "LPRT 4,16,132,235,1,2,2,24,131", command{Verb: verbLPRT, Err: BadFamily}},
		{"LPRT port length", "LPRT 4,4,132,235,1,2,3,24,131", command{Verb: verbLPRT, Err: Malformed}},
		{"LPRT port 0", "LPRT 4,4,132,235,1,2,2,0,0", command{Verb: verbLPRT, Err: BadPort}},

		{"PASV", "PASV", command{Verb: verbPASV}},
		{"P@SW", "p@sw", command{Verb: verbPASV}},
		{"backquote is no at sign", "P`SW", command{}},
		{"CPSV", "CPSV", command{Verb: verbPASV}},
		{"EPSV", "EPSV", command{Verb: verbEPSV}},
		{"EPSV 1", "EPSV 1", command{Verb: verbEPSV}},
		{"EPSV ALL", "epsv all", command{Verb: verbEPSV}},
		{"EPSV with trailing blank", "EPSV ", command{Verb: verbEPSV}},
		{"LPSV", "LPSV", command{Verb: verbLPSV}},
		{"AUTH", "AUTH TLS", command{Verb: verbAUTH}},
		{"REIN", "REIN", command{Verb: verbREIN}},
		{"PASS", "PASS PORT", command{Verb: verbPASS}},
		{"ACCT", "ACCT x", command{Verb: verbACCT}},
		{"ABOR", "ABOR", command{Verb: verbABOR}},
		{"QUIT", "Quit", command{Verb: verbQUIT}},
		{"RETR", "RETR file", command{Verb: verbTransfer}},
		{"STOR", "stor file", command{Verb: verbTransfer}},
		{"STOU", "STOU", command{Verb: verbTransfer}},
		{"APPE", "APPE file", command{Verb: verbTransfer}},
		{"LIST", "LIST", command{Verb: verbTransfer}},
		{"NLST", "NLST", command{Verb: verbTransfer}},
		{"MLSD", "MLSD", command{Verb: verbTransfer}},
		{"STAT", "STAT", command{Verb: verbText}},
		{"HELP", "HELP", command{Verb: verbText}},
		{"SITE", "SITE HELP", command{Verb: verbText}},
		{"other verb", "SIZE file", command{}},
		{"three letters", "PWD", command{}},
		{"tuple in an argument", "USER PORT 192,0,2,10,19,136", command{Verb: verbUSER}},
		{"empty", "", command{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := []byte(tt.line)
			var got command
			if n := testing.AllocsPerRun(10, func() { got = readCommand(line) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrPort); diff != "" {
				t.Errorf("ParseCommand(%q) (-want +got):\n%s", tt.line, diff)
			}
		})
	}
}

func TestParseReply(t *testing.T) {
	tests := []struct {
		name, line string
		want       reply
	}{
		{"vsftpd", "227 Entering Passive Mode (10,220,50,76,64,155).", reply{Code: 227, Endpoint: ep("10.220.50.76:16539")}},
		{"no parentheses", "227 Entering passive mode. 127,0,0,1,4,51", reply{Code: 227, Endpoint: ep("127.0.0.1:1075")}},
		{"bare list", "227 192,168,0,1,12,34", reply{Code: 227, Endpoint: ep("192.168.0.1:3106")}},
		{"equals sign", "227 =127,0,0,1,4,51", reply{Code: 227, Endpoint: ep("127.0.0.1:1075")}},
		{"words before", "227 Data transfer will passively listen to 127,0,0,1,4,51", reply{Code: 227, Endpoint: ep("127.0.0.1:1075")}},
		{"PORT before", "227 Entering passive mode; use PORT 1,1,1,11,38,91", reply{Code: 227, Endpoint: ep("1.1.1.11:9819")}},
		{"digits before", "227 IPv4 mode 2 (1,1,1,11,38,91)", reply{Code: 227, Endpoint: ep("1.1.1.11:9819")}},
		{"commas before", "227 Well, now, here (1,1,1,11,38,91)", reply{Code: 227, Endpoint: ep("1.1.1.11:9819")}},
		{"unspecified", "227 Connect to (0,0,0,0,226,113)", reply{Code: 227, Endpoint: ep("0.0.0.0:57969")}},
		{"Pure-FTPd's time-out", "227 Logout.", reply{Code: 227, Err: Malformed}},
		{"no text", "227", reply{Code: 227, Err: Malformed}},
		{"four numbers", "227 Entering Passive Mode (192,168,0,1)", reply{Code: 227, Err: Malformed}},
		{"seven numbers", "227 (1,192,168,0,1,12,34)", reply{Code: 227, Err: Malformed}},
		{"blanks inside", "227 (192, 168, 0 ,1 , 12, 34)", reply{Code: 227, Endpoint: ep("192.168.0.1:3106")}},
		{"blanks and a seventh number", "227 (1, 192, 168, 0, 1, 12, 34)", reply{Code: 227, Err: Malformed}},
		{"blank instead of a comma", "227 (192 168,0,1,12,34)", reply{Code: 227, Err: Malformed}},
		{"number with a comma before", "227 Hi user 1,024: (198,51,100,20,19,136)", reply{Code: 227, Endpoint: ep("198.51.100.20:5000")}},
		{"number with a comma that runs into the list", "227 Hi user 1, 198,51,100,20,19,136", reply{Code: 227, Err: Malformed}},
		{"empty number", "227 (1,,192,168,0,1,12,34)", reply{Code: 227, Err: Malformed}},
		{"sign", "227 (-192,168,0,1,12,34)", reply{Code: 227, Err: Malformed}},
		{"decimal point before", "227 1.192,168,0,1,12,34", reply{Code: 227, Err: Malformed}},
		{"decimal point behind", "227 192,168,0,1,12,34.5", reply{Code: 227, Err: Malformed}},
		{"letter before", "227 p192,168,0,1,12,34", reply{Code: 227, Err: Malformed}},
		{"trailing comma", "227 (192,168,0,1,12,34,)", reply{Code: 227, Err: Malformed}},
		{"shorter list before", "227 (1,2,3) (192,168,0,1,12,34)", reply{Code: 227, Endpoint: ep("192.168.0.1:3106")}},
		{"first list that is long enough counts", "227 (1,192,168,0,1,12,34) (192,168,0,1,12,34)", reply{Code: 227, Err: Malformed}},
		{"octet over 255", "227 (192,168,0,256,12,34)", reply{Code: 227, Err: BadAddress}},
		{"port octet over 255", "227 (192,168,0,1,257,0)", reply{Code: 227, Err: BadPort}},
		{"port 0", "227 (192,168,0,1,0,0)", reply{Code: 227, Err: BadPort}},
		{"multi-line begin has no tuple", "227-Entering (192,168,0,1,12,34)", reply{Code: 227, More: true}},

		{"228", "228 Entering Long Passive Mode (4,4,198,51,100,20,2,19,136)", reply{Code: 228, Endpoint: ep("198.51.100.20:5000")}},
		{"228 shorter list before", "228 (1,2,3,4,5,6) (4,4,198,51,100,20,2,19,136)", reply{Code: 228, Endpoint: ep("198.51.100.20:5000")}},
		{"228 without list", "228 Entering", reply{Code: 228, Err: Malformed}},

		{"229", "229 Entering Extended Passive Mode (|||6446|)", reply{Code: 229, Endpoint: port(6446)}},
		{"229 final dot", "229 Entering extended passive mode (|||21008|).", reply{Code: 229, Endpoint: port(21008)}},
		{"229 other delimiter", "229 Entering Passive Mode (!!!3106!)", reply{Code: 229, Endpoint: port(3106)}},
		{"229 address", "229 ok (||198.51.100.20|5000|)", reply{Code: 229, Endpoint: ep("198.51.100.20:5000")}},
		{"229 IPv6 address", "229 ok (||fe80::12|5000|)", reply{Code: 229, Endpoint: ep("[fe80::12]:5000")}},
		{"229 family and address", "229 ok (|1|106.208.152.89|21073|)", reply{Code: 229, Endpoint: ep("106.208.152.89:21073")}},
		{"229 mapped address", "229 ok (|2|::ffff:198.51.100.20|5000|)", reply{Code: 229, Endpoint: ep("198.51.100.20:5000")}},
		{"229 word in parentheses before", "229 Entering Extended Passive Mode (EPSV) (|||5000|)", reply{Code: 229, Endpoint: port(5000)}},
		{"229 word in parentheses alone", "229 Entering Extended Passive Mode (EPSV)", reply{Code: 229, Err: Malformed}},
		{"229 number in parentheses before", "229 (2) (|||5000|)", reply{Code: 229, Err: Malformed}},
		{"229 letter as delimiter", "229 (aaa5000a)", reply{Code: 229, Err: Malformed}},
		{"229 delimiter missing", "229 ok (||6446|)", reply{Code: 229, Endpoint: port(6446)}},
		{"229 family without address", "229 ok (|1||1234|)", reply{Code: 229, Err: Malformed}},
		{"229 family 0", "229 (|0||1|)", reply{Code: 229, Err: BadFamily}},
		{"229 family mismatch", "229 ok (|2|106.208.152.89|21073|)", reply{Code: 229, Err: BadAddress}},
		{"229 mixed delimiters", "229 (|!!3106!)", reply{Code: 229, Err: Malformed}},
		{"229 blank delimiters", "229 (   3106 )", reply{Code: 229, Err: Malformed}},
		{"229 DEL as delimiter", "229 (\x7f\x7f\x7f3106\x7f)", reply{Code: 229, Err: Malformed}},
		{"229 not closed", "229 (|||3106|", reply{Code: 229, Err: Malformed}},
		{"229 empty port", "229 (||||)", reply{Code: 229, Err: Malformed}},
		{"229 too short", "229 (|||)", reply{Code: 229, Err: Malformed}},
		{"229 port over 65535", "229 (|||71121|)", reply{Code: 229, Err: BadPort}},
		{"229 port 0", "229 (|||0|)", reply{Code: 229, Err: BadPort}},
		{"229 swapped parentheses", "229 ) foo bar (", reply{Code: 229, Err: Malformed}},

		{"boring", "226 Transfer complete.", reply{Code: 226}},
		{"code alone", "226", reply{Code: 226}},
		{"multi-line", "220-Welcome", reply{Code: 220, More: true}},
		{"no blank behind the code", "220Welcome", reply{}},
		{"four digits", "2200 x", reply{}},
		{"class 0", "012 x", reply{}},
		{"class 7", "712 x", reply{}},
		{"text", " 227 (1,2,3,4,5,6)", reply{}},
		{"empty", "", reply{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := []byte(tt.line)
			var got reply
			if n := testing.AllocsPerRun(10, func() { got = readReply(line) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrPort); diff != "" {
				t.Errorf("ParseReply(%q) (-want +got):\n%s", tt.line, diff)
			}
		})
	}
}

func TestIsVerb(t *testing.T) {
	tests := []struct {
		line string
		want bool
	}{
		{"USER anonymous", true},
		{"auth tls", true},
		{"FEAT", true},
		{"CCC", true},
		{"P@SW", true},
		{"OPEN host", true},
		{"MACB ENABLE", true},
		{"  USER a", true},
		{"GET / HTTP/1.1", false},
		{"POST / HTTP/1.1", false},
		{"OPTIONS * HTTP/1.1", false},
		{"EHLO x", false},
		{"\x16\x03\x01", false},
		{"US", false},
		{"", false},
	}
	for _, tt := range tests {
		if got := isVerb([]byte(tt.line)); got != tt.want {
			t.Errorf("isVerb(%q) = %v, want %v", tt.line, got, tt.want)
		}
	}
}

func TestOtherProtocols(t *testing.T) {
	tests := []struct {
		name, line    string
		foreign, slip bool
	}{
		{name: "a word", line: "hello", slip: true},
		{name: "a verb with two letters swapped", line: "UESR a", slip: true},
		{name: "a blank before it", line: " UESR a", slip: true},
		{name: "an extension with an argument", line: "XFOO 1/2:3", slip: true},
		{name: "HTTP", line: "GET / HTTP/1.1", foreign: true},
		{name: "HTTP with a method of the page's choice", line: "USER / HTTP/1.1", foreign: true, slip: true},
		{name: "HTTP, lower case, blanks behind", line: "user / http/1.0  ", foreign: true, slip: true},
		{name: "RTSP", line: "DESCRIBE rtsp://x RTSP/1.0", foreign: true, slip: true},
		{name: "SIP", line: "REGISTER sip:x SIP/2.0", foreign: true, slip: true},
		{name: "version alone", line: "USER HTTP/", slip: true},
		{name: "HTTP 0.9", line: "GET /"},
		{name: "lower case", line: "post /"},
		{name: "SMTP", line: "EHLO x"},
		{name: "PROXY", line: "PROXY TCP4 192.0.2.1 198.51.100.20 1 21"},
		{name: "SSH", line: "SSH-2.0-x"},
		{name: "a header", line: "Host: x"},
		{name: "digits", line: "a001 LOGIN"},
		{name: "TLS", line: "\x16\x03\x01"},
		{name: "a control character", line: "hello\tx"},
		{name: "Latin-1", line: "h\xe4llo"},
		{name: "blanks", line: "  "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := isForeign([]byte(tt.line)); got != tt.foreign {
				t.Errorf("isForeign(%q) = %v", tt.line, got)
			}
			if got := mayBeSlip([]byte(tt.line)); got != tt.slip {
				t.Errorf("mayBeSlip(%q) = %v", tt.line, got)
			}
		})
	}
}

// TestParserVectors checks lines of other projects' test suites with their
// verdicts.
func TestParserVectors(t *testing.T) {
	f, err := os.Open(corpora.Path(t, "vectors", "parser_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var v struct {
			Kind, Line, IP, Note string
			Valid                bool
			Port                 uint16
		}
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		t.Run(v.Kind+" "+v.Line, func(t *testing.T) {
			var got netip.AddrPort
			var why Reason
			switch v.Kind {
			case "227", "229":
				r := readReply([]byte(v.Line))
				got, why = r.Endpoint, r.Err
			default:
				line := v.Line
				if v.Note == "argument only" {
					line = v.Kind + " " + line
				}
				c := readCommand([]byte(line))
				got, why = c.Endpoint, c.Err
			}
			want := netip.AddrPort{}
			if v.Valid {
				want = port(v.Port)
				if v.IP != "" {
					want = netip.AddrPortFrom(netip.MustParseAddr(v.IP), v.Port)
				}
			}
			if v.Line == "229 Entering Extended Passive Mode (||6446|)" {
				// Outside RFC 2428, but a server prints it and clients follow it;
				// it can mean one endpoint only.
				want = port(6446)
			}
			if got != want {
				t.Errorf("got %v (%s), want %v", got, why, want)
			}
		})
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}
