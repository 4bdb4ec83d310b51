package ctnetlink

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

func openConn(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func tuple(c net.Conn) conntrack.Tuple {
	return conntrack.Tuple{Src: c.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
}

func wantErrno(t *testing.T, err error, want unix.Errno) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(e, want) {
		t.Fatalf("error %v, want an *Error of %v", err, want)
	}
}

// TestKernel takes an expectation through its life on a real control connection.
func TestKernel(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			assignSane(t)
			c := openConn(t)
			master := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))))
			data := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "0"))
			x := &conntrack.Expectation{
				Master: master,
				Tuple: conntrack.Tuple{
					Src: netip.AddrPortFrom(master.Src.Addr(), 0),
					Dst: data.Addr().(*net.TCPAddr).AddrPort(),
				},
			}

			if name := helperOf(t, c, master); name != "sane" {
				t.Fatalf("helper %q, want sane", name)
			}
			reply := conntrack.Tuple{Src: master.Dst, Dst: master.Src}
			if name := helperOf(t, c, reply); name != "sane" {
				t.Fatalf("helper %q for the reply direction, want sane", name)
			}

			if err := c.Expect(x); err != nil {
				t.Fatal(err)
			}
			entries, err := c.Expectations()
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != 1 {
				t.Fatalf("%d expectations, want 1: %v", len(entries), entries)
			}
			e := entries[0]
			if e.Timeout <= 0 || e.Timeout > 5*time.Minute {
				t.Errorf("timeout %v is not within the policy of sane, 5m", e.Timeout)
			}
			e.Timeout, e.ID = 0, 0
			want := ExpectationEntry{Master: master, Tuple: x.Tuple, Mask: maskOf(x.Tuple), Protocol: unix.IPPROTO_TCP, Helper: "sane"}
			if diff := cmp.Diff(want, e, compareAddrs); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}

			wantErrno(t, c.Expect(x), unix.EEXIST)
			if err := c.Delete(x); err != nil {
				t.Fatal(err)
			}
			wantErrno(t, c.Delete(x), unix.ENOENT)

			if _, err := c.execute(exactSource(AppendExpect(nil, 0, x)), netlink.Acknowledge); err != nil {
				t.Fatal(err)
			}
			wantErrno(t, c.Expect(x), unix.EBUSY)
			if _, err := c.execute(exactSource(AppendDelete(nil, 0, x)), netlink.Acknowledge); err != nil {
				t.Fatal(err)
			}

			if err := c.Expect(x); err != nil {
				t.Fatal(err)
			}
			dial(t, data)
			if entries, err := c.Expectations(); err != nil || len(entries) != 0 {
				t.Errorf("after the data connection came there are still %v (error %v)", entries, err)
			}
		})
	}
}

// TestDeleteOwn lets two control connections expect the same tuple one after the other:
// neither takes the other's away.
func TestDeleteOwn(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			assignSane(t)
			c := openConn(t)
			control := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))
			expectation := func() *conntrack.Expectation {
				master := tuple(dial(t, control))
				return &conntrack.Expectation{Master: master, Tuple: conntrack.Tuple{
					Src: netip.AddrPortFrom(master.Src.Addr(), 0), Dst: netip.AddrPortFrom(master.Dst.Addr(), 31240),
				}}
			}
			mine, other := expectation(), expectation()
			wantErrno(t, c.DeleteOwn(mine), unix.ENOENT)
			if err := c.Expect(other); err != nil {
				t.Fatal(err)
			}
			wantErrno(t, c.DeleteOwn(mine), unix.ENOENT)
			wantErrno(t, c.Expect(mine), unix.EEXIST)
			if err := c.DeleteOwn(other); err != nil {
				t.Fatal(err)
			}
			if err := c.Expect(mine); err != nil {
				t.Fatal(err)
			}
			entries, err := c.Expectations()
			if err != nil || len(entries) != 1 {
				t.Fatalf("expectations %v, error %v, want mine", entries, err)
			}
			// One that took the place in between has another ID.
			_, err = c.execute(appendDeleteID(nil, mine, entries[0].ID+1), netlink.Acknowledge)
			if !errors.Is(err, unix.ENOENT) {
				t.Errorf("error %v for another ID, want ENOENT", err)
			}
			if err := c.DeleteOwn(mine); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestZones opens control connections between the same endpoints in two zones, and finds
// the expectations of both, whose zones the kernel does not report.
func TestZones(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			assignSane(t)
			c := openConn(t)
			listener := labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))
			dial(t, listener) // another one
			zone(t, 7)
			master := tuple(dial(t, listener))
			x := &conntrack.Expectation{Zone: 7, Master: master, Tuple: conntrack.Tuple{
				Src: netip.AddrPortFrom(master.Src.Addr(), 0), Dst: netip.AddrPortFrom(master.Dst.Addr(), 31240),
			}}
			zones := func() (zones []uint16) {
				t.Helper()
				found, err := c.FindConnections(master)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range found {
					if f.Original != master {
						t.Errorf("found %+v, want %v", f, master)
					}
					zones = append(zones, f.Zone)
				}
				slices.Sort(zones)
				return zones
			}
			if diff := cmp.Diff([]uint16{7}, zones()); diff != "" {
				t.Errorf("zones (-want +got):\n%s", diff)
			}
			for _, in := range []conntrack.Tuple{
				master,
				{Src: master.Src, Dst: netip.AddrPortFrom(master.Dst.Addr().Next(), master.Dst.Port())}, // another one
			} {
				if _, err := c.execute(appendConntrack(nil, in), netlink.Acknowledge); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([]uint16{0, 7}, zones()); diff != "" {
				t.Errorf("zones (-want +got):\n%s", diff)
			}

			left := func(want int) {
				t.Helper()
				if listed, err := c.Expectations(); err != nil || len(listed) != want {
					t.Errorf("listed %+v, error %v; want %d", listed, err, want)
				}
			}
			if err := c.Expect(x); err != nil {
				t.Fatal(err)
			}
			left(1)
			inDefault := *x
			inDefault.Zone = 0
			wantErrno(t, c.Delete(&inDefault), unix.ENOENT)
			if err := c.DeleteExpectations("ftp"); err != nil {
				t.Error(err)
			}
			left(1)
			if err := c.DeleteExpectations("sane"); err != nil {
				t.Error(err)
			}
			left(0)
			if err := c.DeleteExpectations("sane"); err != nil {
				t.Errorf("of none: %v", err)
			}
		})
	}
}

// TestMark sets a bit of a connection's mark and clears it, and keeps the others.
func TestMark(t *testing.T) {
	const bit, others = 0x100, 0x80000a01
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			assignSane(t)
			c := openConn(t)
			control := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "21"))))
			other := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(tt.host, "2121"))))
			reply := conntrack.Tuple{Src: control.Dst, Dst: control.Src}
			for _, step := range []struct {
				name       string
				t          conntrack.Tuple
				mark, mask uint32
				want       uint32
			}{
				{"the administrator's", control, others, 1<<32 - 1, others},
				{"set", control, bit, bit, others | bit},
				{"set again, by the other direction", reply, bit, bit, others | bit},
				{"clear", reply, 0, bit, others},
				{"clear again", control, 0, bit, others},
			} {
				if _, err := c.execute(AppendMark(nil, 0, 0, step.t, step.mark, step.mask), netlink.Acknowledge); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if got := markOf(t, c, control); got != step.want {
					t.Errorf("%s: mark %#x, want %#x", step.name, got, step.want)
				}
			}
			if got := markOf(t, c, other); got != 0 {
				t.Errorf("mark %#x of another connection", got)
			}
			if bits, _ := status(t, c, control); bits&ipsAssured == 0 {
				t.Errorf("status %#x, want it as it was", bits)
			}
			_, err := c.execute(AppendMark(nil, 0, 7, control, bit, bit), netlink.Acknowledge)
			if !errors.Is(err, unix.ENOENT) {
				t.Errorf("in a zone where it is not: error %v, want ENOENT", err)
			}
		})
	}
}

// markOf returns the mark of the connection of, 0 if the kernel lists none.
func markOf(t *testing.T, c *Conn, of conntrack.Tuple) uint32 {
	t.Helper()
	a, ok := lookedUp(t, c, of)[ctaMark]
	if !ok {
		return 0
	}
	mark, err := a.Uint32()
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

// exactSource makes the message b one for the source port 20 alone: such an
// expectation overlaps that for any source port.
func exactSource(b []byte) []byte {
	port := nfnetlink.AppendUint16(nil, ctaProtoSrcPort, 0)
	tuple := bytes.Index(b, port)
	copy(b[tuple:], nfnetlink.AppendUint16(nil, ctaProtoSrcPort, 20))
	if mask := bytes.Index(b, port); mask > 0 {
		copy(b[mask:], nfnetlink.AppendUint16(nil, ctaProtoSrcPort, 0xffff))
	}
	return b
}

func TestKernelRejects(t *testing.T) {
	labtest.EnterNetns(t)
	assignSane(t)
	c := openConn(t)
	plain := tuple(dial(t, labtest.ListenNetns(t, "127.0.0.1:2121")))
	unknown := conntrack.Tuple{Src: plain.Src, Dst: netip.AddrPortFrom(plain.Dst.Addr(), 21)}

	if name := helperOf(t, c, plain); name != "" {
		t.Errorf("connection without helper: helper %q", name)
	}
	_, err := c.Lookup(unknown)
	wantErrno(t, err, unix.ENOENT)

	data := conntrack.Tuple{Src: addrPort("127.0.0.1:0"), Dst: addrPort("127.0.0.1:31240")}
	wantErrno(t, c.Expect(&conntrack.Expectation{Master: plain, Tuple: data}), unix.EOPNOTSUPP)
	wantErrno(t, c.Expect(&conntrack.Expectation{Master: unknown, Tuple: data}), unix.ENOENT)
	data6 := conntrack.Tuple{Src: addrPort("[::1]:0"), Dst: addrPort("[::1]:31240")}
	wantErrno(t, c.Expect(&conntrack.Expectation{Master: plain, Tuple: data6}), unix.EINVAL)
}

// TestTableFull fills the expectation table. A helper's policy keeps one master
// from doing so, so as many masters are made, by ctnetlink too.
func TestTableFull(t *testing.T) {
	labtest.EnterNetns(t)
	assignSane(t)
	c := openConn(t)
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max")
	if err != nil {
		labtest.Unmet(t, err.Error())
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if limit > 1<<15 {
		t.Skipf("nf_conntrack_expect_max is %d: too many to fill", limit)
	}
	expect := func(i int) *conntrack.Expectation {
		client := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		return &conntrack.Expectation{
			Master: conntrack.Tuple{Src: netip.AddrPortFrom(client, 40001), Dst: addrPort("192.0.2.1:21")},
			Tuple:  conntrack.Tuple{Src: netip.AddrPortFrom(client, 0), Dst: addrPort("192.0.2.1:31240")},
		}
	}
	fill := openConn(t)
	for i := range limit {
		b := appendConntrack(nil, expect(i).Master)
		b = AppendExpect(b, 1, expect(i))
		var err error
		if werr := fill.raw.Write(func(fd uintptr) bool {
			_, err = unix.Write(int(fd), b)
			return true
		}); werr != nil || err != nil {
			t.Fatal(werr, err)
		}
	}
	entries, err := c.Expectations()
	if err != nil || len(entries) != limit {
		t.Fatalf("%d expectations listed, want %d (error %v)", len(entries), limit, err)
	}
	if _, err := c.execute(appendConntrack(nil, expect(limit).Master), netlink.Acknowledge); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, c.Expect(expect(limit)), unix.EMFILE)
}

// appendConntrack appends an IPCTNL_MSG_CT_NEW message that makes the connection
// t with the helper sane.
func appendConntrack(b []byte, t conntrack.Tuple) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	b = appendTuple(b, ctaTupleReply, conntrack.Tuple{Src: t.Dst, Dst: t.Src})
	b = nfnetlink.AppendUint32(b, ctaTimeout, 60)
	help := len(b)
	b = nfnetlink.AppendNest(b, ctaHelp)
	b = nfnetlink.AppendString(b, ctaHelpName, "sane")
	return nfnetlink.EndMessage(nfnetlink.EndAttr(b, help), start)
}

// TestNoPrivilege drops CAP_NET_ADMIN on the test's thread, which is thrown away.
func TestNoPrivilege(t *testing.T) {
	labtest.EnterNetns(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	c := openConn(t)
	for name, do := range map[string]func() error{
		"expect": func() error { return c.Expect(active4()) },
		"delete": func() error { return c.Delete(active4()) },
		"list":   func() error { _, err := c.Expectations(); return err },
		"lookup": func() error { _, err := c.Lookup(active4().Master); return err },
		"create": func() error { return c.CreateEntry(active4().Tuple, active4().Master) },
	} {
		if err := do(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: error %v, want os.ErrPermission", name, err)
		}
	}
}

// TestConcurrentUse checks that each caller gets the reply to its own request.
func TestConcurrentUse(t *testing.T) {
	labtest.EnterNetns(t)
	assignSane(t)
	c := openConn(t)
	l := labtest.ListenNetns(t, "127.0.0.1:21")
	var wg sync.WaitGroup
	for range 4 {
		master := tuple(dial(t, l))
		wg.Go(func() {
			x := &conntrack.Expectation{Master: master, Tuple: conntrack.Tuple{
				Src: netip.AddrPortFrom(master.Src.Addr(), 0),
				Dst: netip.AddrPortFrom(master.Dst.Addr(), master.Src.Port()),
			}}
			for range 50 {
				if err := c.Expect(x); err != nil {
					t.Errorf("expect: %v", err)
				}
				if found, err := c.Lookup(master); found.Original != master || err != nil {
					t.Errorf("found %+v, error %v, for %v", found, err, master)
				}
				if err := c.Delete(x); err != nil {
					t.Errorf("delete: %v", err)
				}
				if err := c.Delete(x); !errors.Is(err, unix.ENOENT) {
					t.Errorf("second delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
}
