package lab_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// echo sends a word from one host to a listener on another and back.
func echo(ctx context.Context, t *testing.T, from, to *lab.Host, addr netip.Addr) {
	t.Helper()
	l, err := to.ListenTCP(ctx, netip.AddrPortFrom(addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	peer := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			peer <- err.Error()
			return
		}
		peer <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String()
		// Not io.Copy: the pipes that it would splice through stay open.
		b, _ := io.ReadAll(c)
		_, _ = c.Write(b)
		_ = c.Close()
	}()
	c, err := from.DialTCP(ctx, netip.AddrPort{}, l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello" {
		t.Errorf("echo: %q, %v", got, err)
	}
	want := from.IPv4()
	if addr.Is6() {
		want = from.IPv6()
	}
	if got := <-peer; got != want.String() {
		t.Errorf("the connection came from %s, want %s", got, want)
	}
}

func TestRouting(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		config lab.Config
	}{
		{"default addresses", lab.Config{}},
		{"one subnet", lab.Config{
			ClientIPv4: netip.MustParseAddr("192.168.0.211"),
			ServerIPv4: netip.MustParseAddr("192.168.0.201"),
			ClientIPv6: netip.MustParseAddr("fd00::211"),
			ServerIPv6: netip.MustParseAddr("fd00::201"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, tt.config)
			// The first packets of both families and directions, with no wait in
			// between, such as for a tentative address.
			echo(ctx, t, l.Client, l.Server, l.Server.IPv4())
			echo(ctx, t, l.Client, l.Server, l.Server.IPv6())
			echo(ctx, t, l.Server, l.Client, l.Client.IPv4())
			echo(ctx, t, l.Server, l.Client, l.Client.IPv6())

			want := tt.config
			if !want.ClientIPv4.IsValid() {
				return
			}
			got := lab.Config{
				ClientIPv4: l.Client.IPv4(), ClientIPv6: l.Client.IPv6(),
				ServerIPv4: l.Server.IPv4(), ServerIPv6: l.Server.IPv6(),
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddressOfTheOtherFamily(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		field  string
		config lab.Config
	}{
		{"ClientIPv4", lab.Config{ClientIPv4: v6}},
		{"ServerIPv4", lab.Config{ServerIPv4: v6}},
		{"ClientIPv6", lab.Config{ClientIPv6: v4}},
		{"ServerIPv6", lab.Config{ServerIPv6: v4}},
	} {
		t.Run(tt.field, func(t *testing.T) {
			l, err := lab.New(tt.config)
			var opErr *lab.OpError
			if !errors.As(err, &opErr) || !strings.Contains(err.Error(), tt.field) {
				t.Errorf("got %v, want an *OpError that names %s", err, tt.field)
			}
			if l != nil {
				_ = l.Close()
			}
		})
	}
}

func TestOpError(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  *lab.OpError
		want string
	}{
		{
			"on a host", &lab.OpError{Op: "start x", Host: "server", Err: fs.ErrNotExist},
			"lab: start x on server: file does not exist",
		},
		{
			"not root", &lab.OpError{Op: "create namespace", Host: "client", Err: unix.EPERM},
			"lab: create namespace on client: operation not permitted (the lab needs root: run it with sudo)",
		},
		{
			"container", &lab.OpError{Op: "set up", Err: &fs.PathError{Op: "open", Path: "/proc/sys/net/x", Err: unix.EROFS}},
			"lab: set up: open /proc/sys/net/x: read-only file system" +
				" (the lab must be able to write /proc/sys/net: run it in a privileged container)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.err.Error()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// namespaces returns the network namespaces of this process's threads and file
// descriptors, other than its own.
func namespaces(t *testing.T) []string {
	t.Helper()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			// Threads and descriptors may vanish while this reads them.
			if ns, err := os.Readlink(p); err == nil && strings.HasPrefix(ns, "net:") && ns != home {
				found = append(found, p+" "+ns)
			}
		}
	}
	return found
}

// group returns the processes of a process group, except zombies, which hold no
// resources.
func group(t *testing.T, pgid int) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range paths {
		// Processes may vanish while this reads them.
		stat, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		// pid (name) state ppid pgrp ..., proc_pid_stat(5)
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 2 && fields[0] != "Z" && fields[2] == strconv.Itoa(pgid) {
			found = append(found, string(stat))
		}
	}
	return found
}

// footprint lists the resources that a lab could leave behind.
type footprint struct {
	Links, Named, Foreign []string
	Descriptors           int
	Goroutines            int
}

func takeFootprint(t *testing.T) footprint {
	t.Helper()
	var f footprint
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		f.Links = append(f.Links, l.Attrs().Name)
	}
	named, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range named {
		f.Named = append(f.Named, e.Name())
	}
	f.Foreign = namespaces(t)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	f.Descriptors = len(fds)
	f.Goroutines = runtime.NumGoroutine()
	return f
}

// Not parallel, because it inspects the whole process: parallel tests of a package start
// after the others.
func TestNothingIsLeft(t *testing.T) {
	ctx := labtest.Context(t)
	// A first lab, so that permanent descriptors, such as the poller's, are open and
	// its threads have exited before the comparison.
	t.Run("first", func(t *testing.T) { labtest.New(t, lab.Config{}) })
	var before footprint
	labtest.Eventually(t, "no namespace is left of the first lab", func() bool {
		before = takeFootprint(t)
		return len(before.Foreign) == 0
	})

	var pids []int
	t.Run("use", func(t *testing.T) {
		l := labtest.New(t, lab.Config{})
		if n := len(namespaces(t)); n < 6 {
			t.Errorf("a lab of three hosts shows %d namespace references, want a thread and a descriptor each", n)
		}
		fw, err := l.Router.DropFirewall(lab.Forward)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fw.Dropped(); err != nil {
			t.Fatal(err)
		}
		ln, err := l.Server.ListenTCP(ctx, netip.AddrPortFrom(l.Server.IPv4(), 21))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		// One that exits on SIGTERM, one that ignores it, and one with a child.
		for _, script := range []string{
			"exec sleep 1000",
			"trap '' TERM; sleep 1000; sleep 1000",
			"sleep 1000 & wait",
		} {
			p, err := l.Server.Start(exec.Command("sh", "-c", script))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, p.Pid())
		}
	})
	for _, pid := range pids {
		labtest.Eventually(t, "the processes of the lab are gone", func() bool { return len(group(t, pid)) == 0 })
	}
	var after footprint
	defer func() {
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("left behind (-before +after):\n%s", diff)
		}
	}()
	labtest.Eventually(t, "the footprint is no larger than before", func() bool {
		after = takeFootprint(t)
		// The runtime may close some of its own at any time.
		after.Descriptors = max(after.Descriptors, before.Descriptors)
		after.Goroutines = max(after.Goroutines, before.Goroutines)
		return cmp.Equal(before, after)
	})
}

func TestDo(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	read := func(h *lab.Host) (ns string) {
		err := h.Do(func() (err error) {
			ns, err = os.Readlink("/proc/thread-self/ns/net")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	seen := map[string]string{home: "the test"}
	for _, h := range []*lab.Host{l.Client, l.Router, l.Server} {
		ns := read(h)
		if other, ok := seen[ns]; ok {
			t.Errorf("%s is in the namespace of %s", h.Name(), other)
		}
		seen[ns] = h.Name()
		if again := read(h); again != ns {
			t.Errorf("%s: %s, then %s", h.Name(), ns, again)
		}
	}
	t.Run("error", func(t *testing.T) {
		if err := l.Client.Do(func() error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("goroutine ended", func(t *testing.T) {
		err := l.Client.Do(func() error { runtime.Goexit(); return nil })
		if err == nil {
			t.Error("a function that did not return gave no error")
		}
	})
	t.Run("thread comes home", func(t *testing.T) {
		// Any goroutine may get a thread that Do used.
		for range 100 {
			_ = l.Client.Do(func() error { return nil })
			ns, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil || ns != home {
				t.Fatalf("%s, %v, want %s", ns, err, home)
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Client.Do(func() error { return nil }); err == nil {
			t.Error("Do worked after Close")
		}
		if _, err := l.Client.Start(exec.Command("true")); err == nil {
			t.Error("Start worked after Close")
		}
	})
}

func TestProcess(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})

	t.Run("output", func(t *testing.T) {
		out, err := l.Client.Output(exec.Command("cat", "/proc/net/if_inet6"))
		if err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(l.Client.IPv6().StringExpanded(), ":", "")
		if !strings.Contains(string(out), want) {
			t.Errorf("the process does not see the address %s of its host:\n%s", want, out)
		}
	})
	t.Run("failure", func(t *testing.T) {
		_, err := l.Client.Output(exec.Command("sh", "-c", "echo the reason >&2; exit 3"))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("got %v, want exit status 3 with the reason", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		var opErr *lab.OpError
		err := l.Client.Run(exec.Command("/nonexistent"))
		if !errors.As(err, &opErr) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want an *OpError with ErrNotExist", err)
		}
	})
	t.Run("kill", func(t *testing.T) {
		p, err := l.Client.Start(exec.Command("sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		var exit *exec.ExitError
		if err := p.Wait(); !errors.As(err, &exit) {
			t.Errorf("got %v, want an ExitError", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		p, err := l.Client.Start(exec.CommandContext(ctx, "sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		var exit *exec.ExitError
		if err := p.Wait(); !errors.As(err, &exit) {
			t.Errorf("got %v, want an ExitError", err)
		}
	})
	t.Run("its children end with it", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
		cmd.Stdout = w
		p, err := l.Client.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		b := make([]byte, 32)
		n, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		child, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Signal(unix.SIGKILL)
		<-p.Done()
		// The pipe reaches its end when the child, the last to hold it, is gone.
		if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(b); !errors.Is(err, io.EOF) {
			t.Errorf("child %d lives on: %v", child, err)
		}
	})
}

// TestKilled kills a process that has a lab: its children must die with it, so that
// nothing holds the namespaces.
func TestKilled(t *testing.T) {
	const role = "FTPCTD_LAB_TEST_KILLED"
	if os.Getenv(role) != "" {
		l := labtest.New(t, lab.Config{})
		p, err := l.Server.Start(exec.Command("sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("pid " + strconv.Itoa(p.Pid()) + "\n")
		select {} // until it is killed
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		labtest.Unmet(t, "needs root for network namespaces: run sudo make test")
	}
	cmd := exec.CommandContext(labtest.Context(t), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), role+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := out.Read(b)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(b[:n]), "pid ")))
	if err != nil {
		t.Fatalf("%q: %v", b[:n], err)
	}
	labtest.Eventually(t, "the process in the lab is gone", func() bool { return len(group(t, pid)) == 0 })
}
