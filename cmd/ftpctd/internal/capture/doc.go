// Package capture reads the IP packets of a capture file: pcap and pcapng, plain or
// compressed with gzip, with the link types of captures on a Linux host or a router.
//
// The package reads both formats itself. The readers of gopacket's pcapgo keep
// a link type in eight bits, so that Linux cooked v2 (276) reads as 20 and a
// foreign type can read as Ethernet, allocate what a length in the file asks
// for, divide by zero on a hostile timestamp resolution, and report the end of
// the file for a record that is cut. A capture that someone sends in is
// untrusted input.
package capture
