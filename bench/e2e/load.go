package main

import "fmt"

// load is what the clients of a measurement do over and over: cycles.
type load struct {
	name string
	// title is its name in the report.
	title string
	// command begins a cycle, which ends with the reply and, if there is one, the
	// end of the data connection. PORT gets its argument from the session.
	command string
	ipv6    bool
	// size is what a data connection carries. A load with a size is measured by
	// one cycle instead of by time.
	size int
}

func (l load) data() bool { return l.command != "NOOP" }

// loads are those that there are. size is of the one transfer.
func loads(size int) []load {
	return []load{
		{name: "pasv", title: "PASV + data connection, IPv4", command: "PASV"},
		{name: "epsv", title: "EPSV + data connection, IPv6", command: "EPSV", ipv6: true},
		{name: "port", title: "PORT + data connection, IPv4", command: "PORT"},
		{name: "noop", title: "NOOP", command: "NOOP"},
		{name: "bulk", title: fmt.Sprintf("data connection of %s", fmt.Sprint(size)), command: "PASV", size: size},
	}
}
