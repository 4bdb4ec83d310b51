package nfq

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/nfq/nfnetlink"
)

// TestSilent sends two messages that the kernel rejects, one of which is silent: the error
// of the other must arrive first.
func TestSilent(t *testing.T) {
	labtest.EnterNetns(t)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if err := noSilent.attach(fd); err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort("192.0.2.1:9")
	for _, seq := range []uint32{SeqSilent, 77} {
		if _, err := unix.Write(fd, setMark(nobody, nobody, seq)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	m, _, _ := nfnetlink.NextMessage(buf[:n])
	if errno, ok := m.Errno(); !ok || m.Seq != 77 || errno != unix.ENOENT {
		t.Errorf("message %+v, want the rejection of number 77", m)
	}
	if n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("another message of %d bytes (%v)", n, err)
	}
}
