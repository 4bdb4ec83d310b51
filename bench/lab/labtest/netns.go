package labtest

import (
	"net"
	"runtime"
	"testing"
	"time"

	"ftpctd/bench/lab"
)

// EnterNetns moves the test's goroutine into a new network namespace, whose only link
// is lo. The thread stays locked, so it and the namespace end with the goroutine.
func EnterNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := lab.EnterNetns(); err != nil {
		Unmet(t, "cannot make a network namespace (root is needed): "+err.Error())
	}
}

// ListenNetns listens on a TCP address, such as 127.0.0.1:21, of the thread's
// namespace until the end of the test.
func ListenNetns(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// DialNetns opens a TCP connection to l within the thread's namespace, from an IP
// address unless that is empty. It closes both ends at the end of the test. Reading and
// writing fail after 20 s.
func DialNetns(t testing.TB, from string, l net.Listener) (client, server net.Conn) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}
