package ftpparse_test

import (
	"fmt"
	"net/netip"

	"ftpctd/ftpparse"
)

// A session reads the segments of both directions and reports which data connection
// comes next.
func ExampleSession() {
	dialogue := []struct {
		dir  ftpparse.Direction
		text string
	}{
		{ftpparse.DirReply, "220 ready\r\n"},
		{ftpparse.DirOriginal, "USER anonymous\r\n"},
		{ftpparse.DirReply, "331 any password will do\r\n"},
		{ftpparse.DirOriginal, "PASS guest@\r\n"},
		{ftpparse.DirReply, "230 logged in\r\n"},
		{ftpparse.DirOriginal, "PA"}, // a line in two segments
		{ftpparse.DirOriginal, "SV\r\n"},
		{ftpparse.DirReply, "227 Entering Passive Mode (198,51,100,20,122,8).\r\n"},
		{ftpparse.DirOriginal, "RETR README\r\n"},
		{ftpparse.DirReply, "150 here it comes\r\n226 done\r\n"},
	}
	seq := [2]uint32{ftpparse.DirOriginal: 1000, ftpparse.DirReply: 2000}

	var session ftpparse.Session
	session.Start(seq[ftpparse.DirOriginal], seq[ftpparse.DirReply])
	defer session.Release()
	var events []ftpparse.Event
	for _, step := range dialogue {
		events = session.Segment(events[:0], ftpparse.Segment{
			Dir:     step.dir,
			Seq:     seq[step.dir],
			Payload: []byte(step.text),
		})
		seq[step.dir] += uint32(len(step.text))
		for _, e := range events {
			switch e.Kind {
			case ftpparse.Announced:
				fmt.Printf("announced by %s: %s\n", e.Via, e.Endpoint)
			case ftpparse.Withdrawn:
				fmt.Printf("withdrawn: %s\n", e.Reason)
			}
		}
	}
	// Output:
	// announced by 227: 198.51.100.20:31240
	// withdrawn: transfer-ended
}

func ExampleParseCommand() {
	line := []byte("EPRT |2|2001:db8::1|5282|")
	via := ftpparse.ParseCommand(line).Via()
	endpoint, why := via.Endpoint(line)
	fmt.Printf("%s %s %q\n", via, endpoint, why)

	line = []byte("PORT 192,0,2,10,19,136,1")
	via = ftpparse.ParseCommand(line).Via()
	_, why = via.Endpoint(line)
	fmt.Printf("%s %q\n", via, why)
	// Output:
	// EPRT [2001:db8::1]:5282 ""
	// PORT "malformed"
}

func ExampleParseReply() {
	line := []byte("229 Entering Extended Passive Mode (|||6446|)")
	code, more := ftpparse.ParseReply(line)
	endpoint, _ := code.Via().Endpoint(line)
	fmt.Println(code, more, endpoint.Port(), endpoint.Addr().IsValid())
	// Output: 229 false 6446 false
}

func ExampleVia_AppendEndpoint() {
	endpoint := netip.MustParseAddrPort("192.0.2.10:5000")
	fmt.Printf("PORT %s\n", ftpparse.PORT.AppendEndpoint(nil, endpoint))
	fmt.Printf("EPRT %s\n", ftpparse.EPRT.AppendEndpoint(nil, endpoint))

	portAlone := netip.AddrPortFrom(netip.Addr{}, endpoint.Port())
	fmt.Printf("229 Entering Extended Passive Mode (%s)\n", ftpparse.R229.AppendEndpoint(nil, portAlone))
	// Output:
	// PORT 192,0,2,10,19,136
	// EPRT |1|192.0.2.10|5000|
	// 229 Entering Extended Passive Mode (|||5000|)
}
