package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	errClosed = errors.New("the lab is closed")
	errGoexit = errors.New("the function exited its goroutine (it must not call t.FailNow or t.Skip)")
)

// Host is one machine of the lab: a network namespace and the processes in it.
type Host struct {
	name       string
	ipv4, ipv6 netip.Addr

	ns    *os.File    // the namespace
	forks chan func() // run by the namespace's own thread
	gone  chan struct{}

	mu        sync.Mutex
	closed    bool
	processes map[*Process]struct{}
}

// newHost creates a host with its namespace.
func newHost(name string, ipv4, ipv6 netip.Addr) (*Host, error) {
	h := &Host{
		name: name, ipv4: ipv4, ipv6: ipv6,
		forks:     make(chan func()),
		gone:      make(chan struct{}),
		processes: make(map[*Process]struct{}),
	}
	created := make(chan error)
	throwaway(func() { h.fork(created) })
	if err := <-created; err != nil {
		return nil, &OpError{Op: "create namespace", Host: name, Err: err}
	}
	if err := h.Do(setup); err != nil {
		return nil, &OpError{Op: "set up namespace", Host: name, Err: errors.Join(err, h.close())}
	}
	return h, nil
}

// fork creates the namespace and starts processes in it, all from one thread. The
// kernel kills a process when the thread that forked it exits (PR_SET_PDEATHSIG), so
// the thread must live exactly as long as the host.
func (h *Host) fork(created chan<- error) {
	defer close(h.gone)
	err := EnterNetns()
	if err == nil {
		h.ns, err = os.Open("/proc/thread-self/ns/net")
	}
	created <- err
	if err != nil {
		return
	}
	for f := range h.forks {
		f()
	}
}

// throwaway calls f in a goroutine, on a thread that exits with it.
func throwaway(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The main thread cannot exit and would hold the namespace as long as the
		// process lives. While this goroutine occupies it, f gets another thread.
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(other)
			f()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// setup enables IPv6 without duplicate address detection, which
// would delay each link-local address by a second.
func setup() error {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv6/conf/all/disable_ipv6":     "0",
		"/proc/sys/net/ipv6/conf/default/disable_ipv6": "0",
		"/proc/sys/net/ipv6/conf/all/accept_dad":       "0",
		"/proc/sys/net/ipv6/conf/default/accept_dad":   "0",
	} {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// Name returns the host's name: client, router or server.
func (h *Host) Name() string { return h.name }

// IPv4 returns the host's IPv4 address; the zero Addr on the router, which has no
// address that others can reach.
func (h *Host) IPv4() netip.Addr { return h.ipv4 }

// IPv6 returns the host's IPv6 address; the zero Addr on the router.
func (h *Host) IPv6() netip.Addr { return h.ipv6 }

// Addrs returns both addresses, IPv4 first.
func (h *Host) Addrs() []netip.Addr { return []netip.Addr{h.ipv4, h.ipv6} }

// NetNS returns a file descriptor of the host's namespace, for libraries that take
// one. It is valid until Lab.Close.
func (h *Host) NetNS() int { return int(h.ns.Fd()) }

// Do calls f on a thread inside the host's namespace and returns its error.
// Sockets that f opens stay in the namespace; goroutines that f starts do not run
// in it.
//
// Another goroutine calls f, so f must not call t.FailNow and the like.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { result <- err }()

		runtime.LockOSThread()
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = openErr
			return
		}
		defer func() { _ = home.Close() }()
		if err = enter(h.ns); err != nil {
			return
		}
		// A thread that cannot return stays locked, and exits with this goroutine.
		defer func() {
			if enter(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = errGoexit
		err = f()
	}()
	return <-result
}

// enter moves the calling thread into a namespace.
func enter(ns *os.File) error {
	rc, err := ns.SyscallConn()
	if err != nil {
		return err
	}
	var setnsErr error
	err = rc.Control(func(fd uintptr) { setnsErr = unix.Setns(int(fd), unix.CLONE_NEWNET) })
	return errors.Join(err, setnsErr)
}

// ListenTCP listens in the host's namespace. With port 0 the kernel chooses one.
func (h *Host) ListenTCP(ctx context.Context, local netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(ctx, "tcp", local.String())
		return err
	})
	return l, err
}

// DialTCP connects from the host's namespace. With an invalid (zero) local address
// the kernel chooses one. A local port in use, such as 20, can be reused to another
// remote port.
func (h *Host) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	// Without fallback to another family, the dialer opens the socket on the
	// calling thread, which is in the right namespace.
	d := net.Dialer{FallbackDelay: -1}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
		d.Control = reuseAddr
	}
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", remote.String())
		return err
	})
	return c, err
}

func reuseAddr(_, _ string, c syscall.RawConn) error {
	var optErr error
	err := c.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, optErr)
}

// close stops the host's processes and its thread, and releases the namespace.
func (h *Host) close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	var processes []*Process
	for p := range h.processes {
		processes = append(processes, p)
	}
	h.mu.Unlock()

	var wg sync.WaitGroup
	for _, p := range processes {
		wg.Go(func() { _ = p.Stop() }) // Wait returns the error
	}
	wg.Wait()
	close(h.forks)
	<-h.gone
	if err := h.ns.Close(); err != nil {
		return &OpError{Op: "close namespace", Host: h.name, Err: err}
	}
	return nil
}
