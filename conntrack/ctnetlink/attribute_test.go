package ctnetlink

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
)

// The attributes of a connection to a server behind NAT, as Linux 6.12 adds them
// to a packet of a queue.
const (
	connectionOrig = `
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 c0a800d3               #     192.168.0.211
    0800 0200 cb007101               #     203.0.113.1
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0849 0000              #     2121`
	connectionReply = `
3400 0280                            # CTA_TUPLE_REPLY
  1400 0180
    0800 0100 0a000001               #     10.0.0.1
    0800 0200 c0a800d3
  1c00 0280
    0500 0100 06 000000
    0600 0200 0015 0000              #     21
    0600 0300 9c41 0000`
	connectionRest = `
0800 0c00 deadbeef                   # CTA_ID
0800 0300 00000188                   # CTA_STATUS
0800 0700 000069ff                   # CTA_TIMEOUT
1000 0580                            # CTA_HELP
  0b00 0100 66747063746400 00        #   CTA_HELP_NAME "ftpctd"
0800 0800 00000000                   # CTA_MARK`
	connectionZone = "0600 1200 0007 0000 # CTA_ZONE 7\n"
	// The same with a zone of the original direction alone.
	connectionOrigZone = `
3c00 0180
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0849 0000
  0600 0300 0009 0000                # CTA_TUPLE_ZONE 9`
	connection6 = `
4c00 0180
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000
4c00 0280
  2c00 0180
    1400 0300 fd000000000000000000000000000001
    1400 0400 fd000000000000000000000000000002
  1c00 0280
    0500 0100 06 000000
    0600 0200 0015 0000
    0600 0300 9c41 0000`
)

func TestParseConnection(t *testing.T) {
	skipBigEndian(t)
	forwarded := conntrack.Connection{
		Original: conntrack.Tuple{Src: addrPort("192.168.0.211:40001"), Dst: addrPort("203.0.113.1:2121")},
		Reply:    conntrack.Tuple{Src: addrPort("10.0.0.1:21"), Dst: addrPort("192.168.0.211:40001")},
	}
	inZone := func(zone uint16) conntrack.Connection {
		c := forwarded
		c.Zone = zone
		return c
	}
	tests := []struct {
		name, attrs string
		want        conntrack.Connection
		err         error
	}{
		{"default zone", connectionOrig + connectionReply + "\n" + connectionRest, forwarded, nil},
		{"zone", connectionOrig + connectionReply + "\n" + connectionZone + connectionRest, inZone(7), nil},
		{"zone of the original direction", connectionOrigZone + connectionReply + "\n" + connectionRest, inZone(9), nil},
		{"IPv6", connection6, conntrack.Connection{
			Original: conntrack.Tuple{Src: addrPort("[fd00::2]:40001"), Dst: addrPort("[fd00::1]:21")},
			Reply:    conntrack.Tuple{Src: addrPort("[fd00::1]:21"), Dst: addrPort("[fd00::2]:40001")},
		}, nil},
		{"nothing", "", conntrack.Connection{}, errNoTuple},
		{"one direction", connectionOrig, conntrack.Connection{}, errNoTuple},
		{"cut within an attribute", connectionOrig + "\n3400 0280 1400 0180", conntrack.Connection{}, errAttribute},
		{"cut within a header", connectionOrig + connectionReply + "\n0800", conntrack.Connection{}, errAttribute},
		{"address of five bytes", "1400 0180 1000 0180 0900 0100 7f00000100 000000", conntrack.Connection{}, errAddress},
		{"port of one byte", "1000 0180 0c00 0280 0500 0200 01 000000", conntrack.Connection{}, errAttribute},
		{"protocol of two bytes", "1000 0180 0c00 0280 0600 0100 0006 0000", conntrack.Connection{}, errAttribute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := labtest.ParseHex(t, tt.attrs)
			var got conntrack.Connection
			if err := ParseConnection(b, &got); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			} else if err != nil {
				return
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("connection (-want +got):\n%s", diff)
			}
			if zone := Zone(b); zone != tt.want.Zone {
				t.Errorf("zone %d, want %d", zone, tt.want.Zone)
			}
			if n := testing.AllocsPerRun(100, func() { _ = ParseConnection(b, &got) }); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}

// TestConnection looks up real connections.
func TestConnection(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			countRelated(t) // has conntrack on
			c := openConn(t)
			ends := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))))
			want := conntrack.Connection{Original: ends, Reply: conntrack.Tuple{Src: ends.Dst, Dst: ends.Src}}
			got, err := c.Connection(ends)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
				t.Errorf("connection (-want +got):\n%s", diff)
			}
			_, err = c.Connection(conntrack.Tuple{Src: ends.Src, Dst: ends.Src})
			wantErrno(t, err, unix.ENOENT)
		})
	}
}
