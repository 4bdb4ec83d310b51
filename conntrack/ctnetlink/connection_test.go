package ctnetlink

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// status returns the IPS_* bits (include/uapi/linux/netfilter/nf_conntrack_common.h)
// and the timeout of the connection t.
func status(t *testing.T, c *Conn, of conntrack.Tuple) (bits uint32, timeout time.Duration) {
	t.Helper()
	attrs := lookedUp(t, c, of)
	bits, err := attrs[ctaStatus].Uint32()
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := attrs[ctaTimeout]; ok {
		if timeout, err = seconds(a); err != nil {
			t.Fatal(err)
		}
	}
	return bits, timeout
}

// helperOf returns the name of the helper of the connection t, empty if it has none.
func helperOf(t *testing.T, c *Conn, of conntrack.Tuple) string {
	t.Helper()
	help := lookedUp(t, c, of)[ctaHelp]
	return attributes(t, help.Value)[ctaHelpName].Text()
}

// attributes returns the attributes in b by type.
func attributes(t *testing.T, b []byte) map[uint16]nfnetlink.Attr {
	t.Helper()
	attrs := make(map[uint16]nfnetlink.Attr)
	err := nfnetlink.EachAttr(b, func(a nfnetlink.Attr) error {
		attrs[a.Type] = a
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return attrs
}

// lookedUp returns the attributes of the connection in the kernel's table.
func lookedUp(t *testing.T, c *Conn, of conntrack.Tuple) map[uint16]nfnetlink.Attr {
	t.Helper()
	body, err := c.lookup(of)
	if err != nil {
		t.Fatal(err)
	}
	return attributes(t, body[4:])
}

// ipsSeenReply is a bit of a connection's status.
const ipsSeenReply = 1 << 1

// freePort returns a port of host that nobody uses, to connect from.
func freePort(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// dialFrom connects src to l and closes the connection, having sent megabytes
// through it.
func dialFrom(t *testing.T, src netip.AddrPort, l net.Listener) {
	t.Helper()
	const size = 2 << 20
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(src), Timeout: 5 * time.Second}
	client, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	done := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, size))
		done <- err
	}()
	if err := server.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestEntry makes the entry of a data connection ahead of its first packet, which
// is RELATED then. There is no helper in the namespace.
func TestEntry(t *testing.T) {
	for _, tt := range []struct{ name, host string }{{"IPv4", "127.0.0.1"}, {"IPv6", "::1"}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			takeEntryThrough(t, tt.host)
		})
	}
}

func takeEntryThrough(t *testing.T, host string) {
	t.Helper()
	related := countRelated(t)
	c := openConn(t)
	master := tuple(dial(t, labtest.ListenNetns(t, net.JoinHostPort(host, "21"))))
	l := labtest.ListenNetns(t, net.JoinHostPort(host, "0"))
	dst := l.Addr().(*net.TCPAddr).AddrPort()

	data := conntrack.Tuple{Src: freePort(t, host), Dst: dst}
	if err := c.CreateEntry(data, master); err != nil {
		t.Fatal(err)
	}
	if name := helperOf(t, c, data); name != "" {
		t.Errorf("helper %q, want an entry without helper", name)
	}
	bits, timeout := status(t, c, data)
	if bits&(ipsExpected|ipsSeenReply) != ipsExpected || timeout > entryTimeout*time.Second || timeout < entryTimeout/2*time.Second {
		t.Errorf("status %#x, timeout %v", bits, timeout)
	}
	wantErrno(t, c.CreateEntry(data, master), unix.EEXIST)
	if n := related(); n != 0 {
		t.Fatalf("%d RELATED packets before the data connection, want none", n)
	}
	dialFrom(t, data.Src, l)
	if n := related(); n != 1 {
		t.Errorf("%d RELATED packets of the data connection, want 1", n)
	}
	if bits, _ := status(t, c, data); bits&ipsExpected == 0 || bits&ipsAssured == 0 {
		t.Errorf("status %#x of the data connection, want EXPECTED and ASSURED", bits)
	}

	// The next one is nobody's business.
	dialFrom(t, freePort(t, host), l)
	if n := related(); n != 1 {
		t.Errorf("%d RELATED packets after another connection, want 1", n)
	}

	// The master may be given by its other direction.
	data = conntrack.Tuple{Src: freePort(t, host), Dst: dst}
	if err := c.CreateEntry(data, conntrack.Tuple{Src: master.Dst, Dst: master.Src}); err != nil {
		t.Fatal(err)
	}
	remove := AppendDeleteConnection(nil, 0, data)
	if _, err := c.execute(remove, netlink.Acknowledge); err != nil {
		t.Fatal(err)
	}
	if _, err := c.execute(remove, netlink.Acknowledge); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("removed again: error %v, want ENOENT", err)
	}
	dialFrom(t, data.Src, l)
	if n := related(); n != 1 {
		t.Errorf("%d RELATED packets after the entry was removed, want 1", n)
	}

	unknown := conntrack.Tuple{Src: master.Src, Dst: netip.AddrPortFrom(master.Dst.Addr(), 2121)}
	wantErrno(t, c.CreateEntry(conntrack.Tuple{Src: freePort(t, host), Dst: dst}, unknown), unix.ENOENT)
}

// TestEntryOutlivesDrop holds that a SYN that a later rule drops is RELATED again
// when it is sent again, unlike one that has used an expectation up.
func TestEntryOutlivesDrop(t *testing.T) {
	labtest.EnterNetns(t)
	related := countRelated(t)
	c := openConn(t)
	master := tuple(dial(t, labtest.ListenNetns(t, "127.0.0.1:21")))
	l := labtest.ListenNetns(t, "127.0.0.1:0")
	data := conntrack.Tuple{Src: freePort(t, "127.0.0.1"), Dst: l.Addr().(*net.TCPAddr).AddrPort()}
	if err := c.CreateEntry(data, master); err != nil {
		t.Fatal(err)
	}
	admit := drop(t)

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(data.Src)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sockaddr(data.Dst)); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); related() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d RELATED packets, want that of a second SYN", related())
		}
	}
	admit()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// drop drops incoming packets, behind the rule of countRelated, until the returned
// function is called.
func drop(t *testing.T) (admit func()) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	flush := func() {
		t.Helper()
		if err := nft.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	policy := nftables.ChainPolicyDrop
	table := nft.AddTable(&nftables.Table{Name: "drop", Family: nftables.TableFamilyINet})
	nft.AddChain(&nftables.Chain{
		Table: table, Name: "input", Type: nftables.ChainTypeFilter, Policy: &policy,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPrioritySecurity,
	})
	flush()
	return func() {
		t.Helper()
		nft.DelTable(table)
		flush()
	}
}

// TestEntryRejected checks the kernel's errors for entries that cannot be.
func TestEntryRejected(t *testing.T) {
	labtest.EnterNetns(t)
	countRelated(t)
	c := openConn(t)
	control := dial(t, labtest.ListenNetns(t, "127.0.0.1:21"))
	master := tuple(control)
	wantErrno(t, c.CreateEntry(master, master), unix.EEXIST)
	data6 := conntrack.Tuple{Src: addrPort("[::1]:40000"), Dst: addrPort("[::1]:31240")}
	wantErrno(t, c.CreateEntry(data6, master), unix.EINVAL)
}

// inUserNamespace is set for the test process in the user namespace.
const inUserNamespace = "FTPCTD_TEST_USER_NAMESPACE"

// TestUserNamespace creates an entry and lists helpers in a process with its own user
// namespace, as in an unprivileged container.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(inUserNamespace) != "" {
		labtest.EnterNetns(t) // which belongs to the user namespace
		takeEntryThrough(t, "127.0.0.1")
		if _, err := openConn(t).Helpers(); !errors.Is(err, ErrNoCTHelper) {
			t.Errorf("error %v, want ErrNoCTHelper: helpers are left to the initial user namespace", err)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestUserNamespace$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inUserNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case cmd.Process == nil:
		labtest.Unmet(t, "cannot create a user namespace: "+err.Error())
	case err != nil || !strings.Contains(string(out), "--- PASS: TestUserNamespace"):
		t.Fatalf("error %v in the user namespace:\n%s", err, out)
	}
}
