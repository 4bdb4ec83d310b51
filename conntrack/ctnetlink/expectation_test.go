package ctnetlink

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
)

// listed is an expectation as Linux 6.18 lists it.
const listed = `
02 00 0000                           # nfgenmsg: AF_INET
3400 0180                            # CTA_EXPECT_MASTER
  1400 0180
    0800 0100 7f000001
    0800 0200 7f000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000
3400 0280                            # CTA_EXPECT_TUPLE
  1400 0180
    0800 0100 7f000001
    0800 0200 7f000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 7a08 0000
3400 0380                            # CTA_EXPECT_MASK
  1400 0180
    0800 0100 ffffffff
    0800 0200 ffffffff
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 ffff 0000
0800 0400 0000012c                   # CTA_EXPECT_TIMEOUT 300
0800 0500 deadbeef                   # CTA_EXPECT_ID
0900 0600 73616e65 00 000000         # CTA_EXPECT_HELP_NAME "sane"
0800 0800 00000004                   # CTA_EXPECT_FLAGS: USERSPACE
0800 0900 00000001                   # CTA_EXPECT_CLASS`

var exact = conntrack.Tuple{Src: netip.MustParseAddrPort("255.255.255.255:0"), Dst: netip.MustParseAddrPort("255.255.255.255:65535")}

// compareAddrs makes cmp compare addresses by value.
var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func TestParseExpect(t *testing.T) {
	skipBigEndian(t)
	whole := labtest.ParseHex(t, listed)
	tests := []struct {
		name string
		data []byte
		want ExpectationEntry
		err  bool
	}{
		{name: "whole", data: whole, want: ExpectationEntry{
			Master:   conntrack.Tuple{Src: addrPort("127.0.0.1:40001"), Dst: addrPort("127.0.0.1:21")},
			Tuple:    conntrack.Tuple{Src: addrPort("127.0.0.1:0"), Dst: addrPort("127.0.0.1:31240")},
			Mask:     exact,
			Protocol: unix.IPPROTO_TCP,
			Timeout:  300 * time.Second,
			ID:       0xdeadbeef,
			Helper:   "sane",
			Class:    1,
			Flags:    4,
		}},
		{name: "no attributes", data: whole[:4], want: ExpectationEntry{}},
		{name: "cut within the header", data: whole[:3], err: true},
		{name: "cut within an attribute", data: whole[:30], err: true},
		{name: "address of five bytes", data: labtest.ParseHex(t, "02000000 1400 0180 1000 0180 0900 0100 7f00000100 000000"), err: true},
		{name: "port of one byte", data: labtest.ParseHex(t, "02000000 1000 0180 0c00 0280 0500 0200 01 000000"), err: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseExpect(tt.data)
			if (err != nil) != tt.err {
				t.Fatalf("error %v, want one: %t", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParse holds that no answer makes the decoders panic, and that a tuple of
// TCP that they accept survives being written and read again.
func FuzzParse(f *testing.F) {
	f.Add(labtest.ParseHex(f, listed))
	f.Add(AppendExpect(nil, 1, active4())[unix.NLMSG_HDRLEN:])
	f.Add(AppendExpect(nil, 1, passive6())[unix.NLMSG_HDRLEN:])
	f.Add(appendHelper(nil, HelperConfig{"ftpctd", 8, 30 * time.Second}, unix.AF_INET)[unix.NLMSG_HDRLEN:])
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		_ = ParseConnection(data, new(conntrack.Connection))
		_, _ = parseHelper(data)
		first, err := parseExpect(data)
		if !bytes.Equal(before, data) {
			t.Fatal("the message was changed")
		}
		if err != nil || !oneFamily(first.Master) || !oneFamily(first.Tuple) || isIPv4(first.Master) != isIPv4(first.Tuple) {
			return
		}
		x := conntrack.Expectation{Master: first.Master, Tuple: first.Tuple}
		second, err := parseExpect(AppendExpect(nil, 1, &x)[unix.NLMSG_HDRLEN:])
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		want := ExpectationEntry{
			Master:   unmap(first.Master),
			Tuple:    unmap(anySource(first.Tuple)),
			Mask:     maskOf(first.Tuple),
			Protocol: unix.IPPROTO_TCP,
		}
		if diff := cmp.Diff(want, second, compareAddrs); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
	})
}

func oneFamily(t conntrack.Tuple) bool {
	src, dst := t.Src.Addr().Unmap(), t.Dst.Addr().Unmap()
	return src.IsValid() && dst.IsValid() && src.BitLen() == dst.BitLen()
}

func unmap(t conntrack.Tuple) conntrack.Tuple {
	return conntrack.Tuple{
		Src: netip.AddrPortFrom(t.Src.Addr().Unmap(), t.Src.Port()),
		Dst: netip.AddrPortFrom(t.Dst.Addr().Unmap(), t.Dst.Port()),
	}
}
