package main

import "fmt"

// load is the cycle that the clients of a measurement repeat.
type load struct {
	name  string
	title string // in the report
	// command begins a cycle, which ends with the reply and with the end of the data
	// connection, if there is one. PORT gets its argument from the session.
	command string
	ipv6    bool
	// size is the number of bytes on a data connection. A load with a size is
	// measured for one cycle instead of for a time.
	size int
}

// data reports whether a cycle has a data connection.
func (l load) data() bool { return l.command != "NOOP" }

// loads returns all loads; size is that of the bulk transfer.
func loads(size int) []load {
	return []load{
		{name: "pasv", title: "PASV", command: "PASV"},
		{name: "epsv", title: "EPSV, IPv6", command: "EPSV", ipv6: true},
		{name: "port", title: "PORT", command: "PORT"},
		{name: "noop", title: "NOOP", command: "NOOP"},
		{name: "bulk", title: sizeText(size), command: "PASV", size: size},
	}
}

// sizeText formats a number of bytes in the largest unit that divides it.
func sizeText(n int) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	for len(units) > 1 && n%1024 == 0 {
		n /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%d %s", n, units[0])
}
