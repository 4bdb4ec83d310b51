// Package labtest helps tests that use a lab or the kernel: they are skipped where they
// cannot run, except on CI, and clean up after themselves.
package labtest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/miniftp"
)

// Unmet reports a missing prerequisite. On CI (the environment variable CI is "true")
// the test fails, elsewhere it is skipped.
func Unmet(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("on CI: " + why)
	}
	t.Skip(why)
}

// UnmetKernel reports a missing kernel feature that distribution kernels have and the
// daemon does not require. In a virtual machine of package vm, which runs such a kernel,
// the test fails; elsewhere it is skipped, on CI as well.
func UnmetKernel(t testing.TB, why string) {
	t.Helper()
	if _, err := os.Stat("/run/vm/parameters"); err == nil {
		t.Fatal("on a distribution kernel: " + why)
	}
	t.Skip(why + ": run sudo make test-vm")
}

// New returns a lab that is closed at the end of the test.
func New(t testing.TB, c lab.Config) *lab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		Unmet(t, "needs root for network namespaces: run sudo make test")
	}
	l, err := lab.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Listen listens on an address of a host.
//
// It retries while the address is in use: a child process holds a copy of every
// descriptor of this process, and so of a closed listener, from fork to exec.
func Listen(ctx context.Context, t testing.TB, h *lab.Host, local netip.AddrPort) net.Listener {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := h.ListenTCP(ctx, local)
		if err == nil {
			return l
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Serve runs an FTP server on both addresses of a host until the end of the test.
func Serve(t testing.TB, h *lab.Host, s *miniftp.Server) {
	t.Helper()
	s.Network = h
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, addr := range h.Addrs() {
		l := Listen(ctx, t, h, netip.AddrPortFrom(addr, lab.ControlPort))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := s.Serve(ctx, l); err != nil {
				t.Error(err)
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
}

// Dial returns a client that is connected to a server but not logged in. It is closed
// at the end of the test.
func Dial(ctx context.Context, t testing.TB, n miniftp.Network, server netip.AddrPort) *miniftp.Client {
	t.Helper()
	c, err := miniftp.Dial(ctx, n, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Connect is like Dial, on port 21, and logs in.
func Connect(ctx context.Context, t testing.TB, n miniftp.Network, server netip.Addr) *miniftp.Client {
	t.Helper()
	c := Dial(ctx, t, n, netip.AddrPortFrom(server, lab.ControlPort))
	if err := c.Login(ctx, "anonymous", "lab@example.com"); err != nil {
		t.Fatal(err)
	}
	return c
}

// Content returns n pseudo-random bytes, the same in each call.
func Content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}

// fileSize is the size of the files of a round trip: many segments.
const fileSize = 200_000

// RoundTrip downloads a file of many segments, uploads it under another name, and
// compares the contents. It takes two data connections.
func RoundTrip(ctx context.Context, t testing.TB, c *miniftp.Client, s *miniftp.Server, w miniftp.Way) {
	t.Helper()
	down, up := "down "+w.String(), "up "+w.String()
	want := Content(fileSize)
	s.Put(down, want)
	got, err := c.Retr(ctx, w.Via, down)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("downloaded %d bytes that differ from the file's %d", len(got), len(want))
	}
	s.Put(up, nil) // not what is there already
	if err := c.Stor(ctx, w.Via, up, got); err != nil {
		t.Fatal(err)
	}
	if stored, _ := s.File(up); !bytes.Equal(stored, want) {
		t.Errorf("uploaded %d bytes that differ from the file's %d", len(stored), len(want))
	}
}
