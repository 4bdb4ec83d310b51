package nfq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/nfq/nfnetlink"
	"ftpctd/nfq/packet"
)

// handler is a Handler made of functions, of which packet may be nil.
type handler struct {
	packet   func(*packet.Packet) Verdict
	rejected chan rejection
}

type rejection struct {
	Seq uint32
	Err error
}

func (h handler) Packet(p *packet.Packet) Verdict {
	if h.packet == nil {
		return Verdict{}
	}
	return h.packet(p)
}

// Flush implements Handler.
func (handler) Flush() {}

func (h handler) Rejected(seq uint32, err error) { h.rejected <- rejection{seq, err} }

// eachDriver runs a test for each of the drivers.
func eachDriver(t *testing.T, test func(t *testing.T, driver string)) {
	for _, driver := range []string{DriverNetlink, DriverGoNFQueue} {
		t.Run(driver, func(t *testing.T) { test(t, driver) })
	}
}

// start opens a queue and runs it until the end of the test, or until stop is
// called, which returns what Run returned.
func start(t *testing.T, cfg Config, h Handler) (q *Queue, stop func() error) {
	t.Helper()
	cfg.Num = queue
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runErr error
	done := make(chan struct{})
	go func() {
		runErr = q.Run(ctx, h)
		close(done)
	}()
	stop = func() error {
		cancel()
		<-done
		return runErr
	}
	t.Cleanup(func() { _ = stop() })
	return q, stop
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, c net.Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEachPayloadOnce(t *testing.T) { eachDriver(t, testEachPayloadOnce) }

func testEachPayloadOnce(t *testing.T, driver string) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			var mu sync.Mutex
			var got []packet.Packet
			q, stop := start(t, Config{Driver: driver}, handler{packet: func(p *packet.Packet) Verdict {
				mu.Lock()
				defer mu.Unlock()
				c := *p
				c.Payload = bytes.Clone(p.Payload)
				got = append(got, c)
				return Verdict{}
			}})
			install(t)
			client, server := connect(t, tt.host)

			var want []packet.Packet
			lines := []string{"USER x\r\n", "PASV\r\n", strings.Repeat("x", 5000), "QUIT\r\n"}
			for i, line := range lines {
				write(t, client, line)
				if s := read(t, server, len(line)); s != line {
					t.Fatalf("server read %q, want %q", s, line)
				}
				write(t, server, "200\r\n") // not queued
				read(t, client, 5)
				want = append(want, packet.Packet{
					ID:      uint32(i + 1),
					Src:     client.LocalAddr().(*net.TCPAddr).AddrPort(),
					Dst:     server.LocalAddr().(*net.TCPAddr).AddrPort(),
					Flags:   packet.ACK,
					Payload: []byte(line),
				})
			}
			if err := stop(); err != nil {
				t.Error(err)
			}

			for i := range got {
				if i > 0 && got[i].Seq != got[i-1].Seq+uint32(len(lines[i-1])) {
					t.Errorf("packet %d has sequence number %d, the one before %d with %d bytes", i, got[i].Seq, got[i-1].Seq, len(lines[i-1]))
				}
				if i > 0 && got[i].Ack != got[i-1].Ack+5 {
					t.Errorf("packet %d acknowledges %d, the one before %d", i, got[i].Ack, got[i-1].Ack)
				}
			}
			for i := range got {
				got[i].Seq, got[i].Ack = 0, 0
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("packets (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(Stats{Packets: 4}, q.Stats()); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHold(t *testing.T) { eachDriver(t, testHold) }

func testHold(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	held := make(chan uint32, 100)
	q, _ := start(t, Config{Driver: driver}, handler{packet: func(p *packet.Packet) Verdict {
		held <- p.ID
		return Verdict{Hold: true}
	}})
	install(t)
	client, server := connect(t, "127.0.0.1")

	write(t, client, "PORT")
	id := <-held
	arrived := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(server, make([]byte, 4))
		arrived <- err
	}()
	select {
	case err := <-arrived:
		t.Fatalf("the packet passed though held (error %v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := q.Accept(id); err != nil {
		t.Fatal(err)
	}
	if err := <-arrived; err != nil {
		t.Fatal(err)
	}
	if err := q.Accept(id); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "a verdict for a packet that is gone is counted", func() bool { return q.Stats().Gone == 1 })
	if s := q.Stats(); s.Held < 1 || s.SendErrors != 0 {
		t.Errorf("counters %+v, want Held and no SendErrors", s)
	}
}

// TestBefore has the handler set the conntrack mark of the connection before its
// packet moves on. A rule behind the queue counts packets with the mark, and
// must count every one.
func TestBefore(t *testing.T) { eachDriver(t, testBefore) }

func testBefore(t *testing.T, driver string) {
	tests := []struct {
		name string
		hold bool
	}{
		{"with the verdict", false},
		{"of a held packet", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			var q *Queue
			h := handler{rejected: make(chan rejection, 100)}
			h.packet = func(p *packet.Packet) Verdict {
				if tt.hold {
					id := p.ID
					go func() {
						for q.busy.Load() { // until Before has been sent
							time.Sleep(time.Millisecond)
						}
						if err := q.Accept(id); err != nil {
							t.Error(err)
						}
					}()
				}
				return Verdict{Before: setMark(p.Src, p.Dst, 1), Hold: tt.hold}
			}
			q, err := Open(Config{Num: queue, Driver: driver})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { done <- q.Run(ctx, h) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			r := install(t)
			l := labtest.ListenNetns(t, "127.0.0.1:21")
			// The first packet of each connection, so that each needs its own mark.
			for i := range uint64(20) {
				client, server := labtest.DialNetns(t, "", l)
				write(t, client, "PASV\r\n")
				read(t, server, 6)
				if n := r.countMarked(t); n != i+1 {
					t.Fatalf("%d packets passed with the mark, want %d", n, i+1)
				}
			}
			if len(h.rejected) > 0 {
				t.Errorf("rejected: %v", <-h.rejected)
			}
		})
	}
}

// setMark is an IPCTNL_MSG_CT_NEW message that sets the conntrack mark of an
// IPv4 connection.
func setMark(src, dst netip.AddrPort, seq uint32) []byte {
	const ctaTupleOrig, ctaMark = 1, 8
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaTupleOrig, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(1, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(1, src.Addr().AsSlice())
			ae.Bytes(2, dst.Addr().AsSlice())
			return nil
		})
		ae.Nested(2, func(ae *netlink.AttributeEncoder) error {
			ae.Uint8(1, unix.IPPROTO_TCP)
			ae.Uint16(2, src.Port())
			ae.Uint16(3, dst.Port())
			return nil
		})
		return nil
	})
	ae.Uint32(ctaMark, 7)
	attrs, err := ae.Encode()
	if err != nil {
		panic(err)
	}
	b := nfnetlink.AppendHeader(nil, nfnetlink.Header{
		Type: unix.NFNL_SUBSYS_CTNETLINK << 8, Flags: unix.NLM_F_REQUEST, Seq: seq, Family: unix.AF_INET,
	})
	return nfnetlink.EndMessage(append(b, attrs...), 0)
}

// TestConntrack checks that packets come with the attributes of their connection if the
// kernel supports that, and without them otherwise.
func TestConntrack(t *testing.T) { eachDriver(t, testConntrack) }

func testConntrack(t *testing.T, driver string) {
	for _, asked := range []bool{true, false} {
		t.Run(fmt.Sprintf("asked %t", asked), func(t *testing.T) {
			labtest.EnterNetns(t)
			got := make(chan []byte, 1)
			q, _ := start(t, Config{Driver: driver, Conntrack: asked}, handler{packet: func(p *packet.Packet) Verdict {
				got <- bytes.Clone(p.Conntrack)
				return Verdict{}
			}})
			install(t)
			client, server := connect(t, "127.0.0.1")
			write(t, client, "PASV\r\n")
			read(t, server, 6)
			b := <-got
			// CTA_TUPLE_ORIG comes first.
			if known := len(b) > 4 && b[2] == 1; known != q.Conntrack() || q.Conntrack() && !asked {
				t.Errorf("the queue says %t, the packet came with %x", q.Conntrack(), b)
			}
			if asked && !q.Conntrack() {
				labtest.UnmetKernel(t, "the kernel cannot tell (CONFIG_NETFILTER_NETLINK_GLUE_CT)")
			}
		})
	}
}

// TestConntrackFlag checks that a queue opens without the flag if the kernel does not know
// it, and only then.
func TestConntrackFlag(t *testing.T) {
	tests := []struct {
		name      string
		ask       bool
		answer    []error
		set       []uint32
		conntrack bool
		err       error
	}{
		{"not asked for", false, []error{nil}, []uint32{flagFailOpen}, false, nil},
		{"there", true, []error{nil}, []uint32{flagFailOpen | flagConntrack}, true, nil},
		{"not there", true, []error{unix.EOPNOTSUPP, nil}, []uint32{flagFailOpen | flagConntrack, flagFailOpen}, false, nil},
		{"taken", true, []error{unix.EBUSY}, []uint32{flagFailOpen | flagConntrack}, false, unix.EBUSY},
		{"nothing there", true, []error{unix.EOPNOTSUPP, unix.EOPNOTSUPP}, []uint32{flagFailOpen | flagConntrack, flagFailOpen}, false, unix.EOPNOTSUPP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Conntrack: tt.ask}
			q := newQueue(cfg)
			var set []uint32
			err := q.setFlags(cfg, func(flags uint32) error {
				set = append(set, flags)
				return tt.answer[len(set)-1]
			})
			if !errors.Is(err, tt.err) || q.Conntrack() != tt.conntrack {
				t.Errorf("error %v, conntrack %t", err, q.Conntrack())
			}
			if diff := cmp.Diff(tt.set, set); diff != "" {
				t.Errorf("flags (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRejected(t *testing.T) { eachDriver(t, testRejected) }

func testRejected(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	h := handler{rejected: make(chan rejection, 1)}
	h.packet = func(p *packet.Packet) Verdict {
		// There is no such connection: an update without CREATE fails.
		nobody := netip.AddrPortFrom(p.Dst.Addr(), 9)
		return Verdict{Before: append(setMark(p.Src, nobody, SeqSilent), setMark(p.Src, nobody, 77)...)}
	}
	start(t, Config{Driver: driver}, h)
	install(t)
	client, server := connect(t, "127.0.0.1")
	write(t, client, "PASV\r\n")
	read(t, server, 6) // the packet passes nevertheless
	if got := <-h.rejected; got.Seq != 77 || !errors.Is(got.Err, unix.ENOENT) {
		t.Errorf("rejected %v, want sequence number 77 and ENOENT", got)
	}
}

func TestUndecoded(t *testing.T) { eachDriver(t, testUndecoded) }

func testUndecoded(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	q, _ := start(t, Config{Driver: driver, CopyRange: 41}, handler{packet: func(p *packet.Packet) Verdict {
		t.Errorf("a packet cut by CopyRange was handled: %+v", p)
		return Verdict{}
	}})
	install(t)
	client, server := connect(t, "127.0.0.1")
	write(t, client, "PASV\r\n")
	read(t, server, 6)
	if diff := cmp.Diff(Stats{Packets: 1, Undecoded: 1}, q.Stats()); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// TestOverrun stops the handler while more packets arrive than the receive buffer has room
// for. They pass, and the queue still works afterwards.
func TestOverrun(t *testing.T) { eachDriver(t, testOverrun) }

func testOverrun(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	release := make(chan struct{})
	var mu sync.Mutex
	var last string
	q, _ := start(t, Config{Driver: driver, ReadBuffer: 4096}, handler{packet: func(p *packet.Packet) Verdict {
		<-release
		mu.Lock()
		defer mu.Unlock()
		last = string(p.Payload)
		return Verdict{}
	}})
	install(t)
	l := labtest.ListenNetns(t, "127.0.0.1:21")
	var servers []net.Conn
	for range 40 {
		client, server := labtest.DialNetns(t, "", l)
		write(t, client, "PASV\r\n")
		servers = append(servers, server)
	}
	read(t, servers[len(servers)-1], 6) // passed unread
	close(release)
	for _, server := range servers[:len(servers)-1] {
		read(t, server, 6)
	}
	labtest.Eventually(t, "the overrun is counted", func() bool { return q.Stats().Overruns > 0 })

	client, server := labtest.DialNetns(t, "", l)
	write(t, client, "QUIT\r\n")
	read(t, server, 6)
	mu.Lock()
	defer mu.Unlock()
	if last != "QUIT\r\n" {
		t.Errorf("the last packet read after the overrun is %q, want QUIT", last)
	}
}

// TestOpenUnderTraffic opens the queue over and over while rules already send
// packets there. Each Open must succeed, and no packet may be lost for longer than TCP
// takes to send it again.
func TestOpenUnderTraffic(t *testing.T) { eachDriver(t, testOpenUnderTraffic) }

func testOpenUnderTraffic(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	install(t)
	client, server := connect(t, "127.0.0.1")
	const line = "NOOP\r\n"
	sent := make(chan int, 1)
	stop := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				_ = client.Close()
				return
			default:
				if _, err := io.WriteString(client, line); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	received := make(chan int64, 1)
	go func() {
		n, err := io.Copy(io.Discard, server)
		if err != nil {
			t.Error(err)
		}
		received <- n
	}()
	for range 100 {
		q, err := Open(Config{Num: queue, Driver: driver})
		if err != nil {
			t.Error(err)
			break
		}
		done := make(chan error, 1)
		go func() { done <- q.Run(t.Context(), handler{}) }()
		time.Sleep(time.Millisecond)
		if err := errors.Join(q.Close(), <-done); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if n, want := <-received, int64(<-sent*len(line)); n != want {
		t.Errorf("%d bytes arrived, want %d", n, want)
	}
}

// TestAdmitPackets holds that a packet that the kernel queued while the socket
// dropped packets does not wait for ever.
func TestAdmitPackets(t *testing.T) { eachDriver(t, testAdmitPackets) }

func testAdmitPackets(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	q, _ := start(t, Config{Driver: driver}, handler{})
	install(t)
	client, server := connect(t, "127.0.0.1")
	if err := noPackets.attach(socketOf(t, q)); err != nil {
		t.Fatal(err)
	}
	write(t, client, "PASV\r\n")
	labtest.Eventually(t, "the packet waits in the kernel", func() bool {
		waiting := findLine("/proc/thread-self/net/netfilter/nfnetlink_queue", func(f []string) bool { return f[2] != "0" })
		return waiting != nil
	})
	if err := errors.Join(unix.SetsockoptInt(socketOf(t, q), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0), q.acceptAll(nil)); err != nil {
		t.Fatal(err)
	}
	read(t, server, 6)
	if diff := cmp.Diff(Stats{}, q.Stats()); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestOpenTwice(t *testing.T) { eachDriver(t, testOpenTwice) }

func testOpenTwice(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	q, _ := start(t, Config{Driver: driver}, handler{})
	_, err := Open(Config{Num: queue, Driver: driver})
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, unix.EBUSY) || e.Queue != queue {
		t.Fatalf("error %v, want an *Error of EBUSY", err)
	}
	comm, readErr := os.ReadFile("/proc/self/comm")
	if readErr != nil {
		t.Fatal(readErr)
	}
	want := fmt.Sprintf("the queue is already bound by process %d (%s), port ID ", os.Getpid(), strings.TrimSpace(string(comm)))
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not contain %q", err, want)
	}
	// The first owner keeps it.
	install(t)
	client, server := connect(t, "127.0.0.1")
	write(t, client, "PASV\r\n")
	read(t, server, 6)
	if n := q.Stats().Packets; n != 1 {
		t.Errorf("the first owner has %d packets, want 1", n)
	}
}

// TestNoPrivilege drops CAP_NET_ADMIN on the test's thread, which is thrown away.
func TestNoPrivilege(t *testing.T) { eachDriver(t, testNoPrivilege) }

func testNoPrivilege(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Config{Num: queue, Driver: driver})
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, os.ErrPermission) || e.Owner != nil {
		t.Errorf("error %v, want an *Error of os.ErrPermission and no owner", err)
	}
}

// TestStop holds that what waits when Run ends passes, held packets too, and
// that connections live on without the queue.
func TestStop(t *testing.T) { eachDriver(t, testStop) }

func testStop(t *testing.T, driver string) {
	tests := []struct {
		name string
		end  func(q *Queue, stop func() error) error
	}{
		{"cancelled", func(_ *Queue, stop func() error) error { return stop() }},
		{"closed", func(q *Queue, stop func() error) error { return errors.Join(q.Close(), stop()) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			held := make(chan uint32, 100)
			q, stop := start(t, Config{Driver: driver}, handler{packet: func(p *packet.Packet) Verdict {
				held <- p.ID
				return Verdict{Hold: true}
			}})
			r := install(t)
			client, server := connect(t, "127.0.0.1")
			write(t, client, "PASV\r\n")
			id := <-held
			pass := r.dropArriving(t) // of what TCP retransmits
			if err := tt.end(q, stop); err != nil {
				t.Fatal(err)
			}
			read(t, server, 6)
			pass()
			write(t, client, "QUIT\r\n")
			read(t, server, 6)
			if err := q.Accept(id); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Accept on a closed queue: error %v, want os.ErrClosed", err)
			}
		})
	}
}

// TestNothingLeft holds that opening and closing leaves no descriptor and no
// goroutine, whether Run was called or not, or Open failed.
func TestNothingLeft(t *testing.T) { eachDriver(t, testNothingLeft) }

func testNothingLeft(t *testing.T, driver string) {
	labtest.EnterNetns(t)
	count := func() [2]int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return [2]int{len(fds), runtime.NumGoroutine()}
	}
	cycle := func() {
		q, err := Open(Config{Num: queue, Driver: driver})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Num: queue, Driver: driver}); err == nil {
			t.Fatal("a second Open succeeded")
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q, err = Open(Config{Num: queue, Driver: driver})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := q.Run(ctx, handler{}); err != nil {
			t.Fatal(err)
		}
	}
	cycle() // the runtime keeps descriptors that the first one opens
	before := count()
	for range 5 {
		cycle()
	}
	labtest.Eventually(t, "descriptors and goroutines are as before", func() bool {
		after := count()
		return after[0] <= before[0] && after[1] <= before[1]
	})
}

// socketOf returns the file descriptor of a queue's socket.
func socketOf(t *testing.T, q *Queue) (fd int) {
	t.Helper()
	switch d := q.driver.(type) {
	case *socket:
		return d.fd
	case *goNFQueue:
		if err := d.raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// TestReceiveFails takes the socket away from under the queue.
func TestReceiveFails(t *testing.T) {
	labtest.EnterNetns(t)
	q, err := Open(Config{Num: queue, Driver: DriverGoNFQueue})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.driver.(*goNFQueue).nf.Con.Close(); err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*Error](q.Run(t.Context(), handler{})); !ok || e.Op != "receive" {
		t.Errorf("error %v, want an *Error of receive", e)
	}
}

func TestUnknownDriver(t *testing.T) {
	_, err := Open(Config{Num: queue, Driver: "pcap"})
	if err == nil || !strings.Contains(err.Error(), DriverNetlink) {
		t.Errorf("error %v, want one that names the drivers", err)
	}
}

// nullConn is a socket that discards datagrams.
type nullConn struct {
	syscall.RawConn
	fd uintptr
}

func (c nullConn) Write(f func(fd uintptr) bool) error {
	for !f(c.fd) {
		continue
	}
	return nil
}

// pasvPacket is a command from 192.0.2.1:40001 to 198.51.100.2:21.
var pasvPacket = append([]byte{
	0x45, 0, 0, 46, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2, // IPv4
	0x9c, 0x41, 0, 21, 0, 0, 3, 232, 0, 0, 7, 208, 5 << 4, 0b11000, 0xff, 0xff, 0, 0, 0, 0, // TCP
}, "PASV\r\n"...)

// TestAllocations holds that a packet costs no allocation from the kernel's
// message, or go-nfqueue's callback, to the system call.
func TestAllocations(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := setMark(netip.MustParseAddrPort("192.0.2.1:40001"), netip.MustParseAddrPort("198.51.100.2:21"), 1)
	id := uint32(1)
	connection := nfnetlink.AppendUint32(nil, 8, 7) // CTA_MARK
	attribute := nfqueue.Attribute{PacketID: &id, Payload: &pasvPacket, Ct: &connection}
	message := packetMessage(id, pasvPacket, connection)

	for _, tt := range []struct {
		name string
		open func(q *Queue) func()
	}{
		{DriverGoNFQueue, func(q *Queue) func() {
			d := newGoNFQueue(q)
			d.raw = nullConn{fd: null.Fd()}
			q.driver = d
			return func() { d.receive(attribute) }
		}},
		{DriverNetlink, func(q *Queue) func() {
			d := &socket{q: q, fd: int(null.Fd())}
			q.driver = d
			return func() {
				q.beginBatch()
				d.datagram(message)
				q.flush()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sent []byte
			q := newQueue(Config{Num: queue})
			q.handler = handler{packet: func(p *packet.Packet) Verdict {
				if !bytes.Equal(p.Conntrack, connection) {
					t.Errorf("attributes of the connection %x, want %x", p.Conntrack, connection)
				}
				return Verdict{Before: before}
			}}
			take := tt.open(q)
			close(q.running)
			if n := testing.AllocsPerRun(100, take); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
			if s := q.Stats(); s.Packets != 101 || s.Undecoded+s.SendErrors != 0 {
				t.Errorf("counters %+v, want 101 packets and no error", s)
			}
			sent = q.batch[:cap(q.batch)][:len(before)+len(appendVerdict(nil, queue, id))]
			if diff := cmp.Diff(string(before)+string(appendVerdict(nil, queue, id)), string(sent)); diff != "" {
				t.Errorf("datagram (-want +got):\n%s", diff)
			}
		})
	}
}

// packetMessage is an NFQNL_MSG_PACKET as the kernel sends it, with what conntrack
// knows of the connection, if that is anything.
func packetMessage(id uint32, packet, conntrack []byte) []byte {
	b := appendHeader(nil, msgPacket, 0, 0, queue)
	b = nfnetlink.AppendAttr(b, nfqaPacketHeader, 7)
	b = binary.BigEndian.AppendUint32(b, id)
	b = append(b, 8, 0, 2, 0)           // protocol and hook, and padding
	b = nfnetlink.AppendUint32(b, 4, 1) // NFQA_TIMESTAMP and others come between
	if conntrack != nil {
		b = nfnetlink.AppendBytes(b, unix.NLA_F_NESTED|nfqaConntrack, conntrack)
		b = nfnetlink.AppendUint32(b, 12, 2) // NFQA_CT_INFO
	}
	b = nfnetlink.AppendAttr(b, nfqaPayload, uint16(len(packet)))
	return nfnetlink.EndMessage(append(b, packet...), 0) // which is not padded
}

// FuzzDatagram feeds the driver what no kernel sends: it must not read beyond it.
func FuzzDatagram(f *testing.F) {
	f.Add(packetMessage(1, pasvPacket, nfnetlink.AppendUint32(nil, 8, 7)))
	f.Add(append(packetMessage(1, nil, nil), packetMessage(2, []byte{0x45}, nil)...))
	answer := appendHeader(nil, unix.NLMSG_ERROR, 0, 7, 0)
	f.Add(nfnetlink.EndMessage(binary.NativeEndian.AppendUint32(answer, 1<<32-16), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var ids []uint32
		q := newQueue(Config{Num: queue})
		q.handler = handler{
			packet:   func(p *packet.Packet) Verdict { ids = append(ids, p.ID); return Verdict{} },
			rejected: make(chan rejection, len(b)),
		}
		d := &socket{q: q, fd: -1}
		d.datagram(b)
		if n := uint64(len(q.batch)) / uint64(len(appendVerdict(nil, 0, 0))); n != q.packets.Load() || uint64(len(ids)) > n {
			t.Errorf("%d packets, %d of them handled, %d verdicts", q.packets.Load(), len(ids), n)
		}
	})
}
