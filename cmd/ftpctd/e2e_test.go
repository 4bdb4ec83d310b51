package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/ftpparse"
)

// program returns the program under test, to be run in a host of a lab. It is
// this test binary under another name, which TestMain puts into PATH: with -race
// it is checked for data races like the tests themselves.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("ftpctd", args...)
	// Left alone, the race detector sleeps for a second at the end.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// blockedTimeout is how long a miniftp.Server tries to open an active data connection
// that a firewall drops, until it replies 425. The kernel retransmits a SYN after a
// second: the server gives up before.
const blockedTimeout = 400 * time.Millisecond

// testContext returns a context for one test, which is far longer than the test takes.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// transcript is what a process has written.
type transcript struct{ lab.Transcript }

// count returns how many lines contain all the words.
func (tr *transcript) count(words ...string) (n int) {
	for line := range strings.Lines(tr.String()) {
		n++
		for _, w := range words {
			if !strings.Contains(line, w) {
				n--
				break
			}
		}
	}
	return n
}

// daemon is a running "ftpctd run" in a host of a lab.
type daemon struct {
	host    *lab.Host
	process *lab.Process
	log     *transcript
	killed  bool
}

// start is startSilent for a daemon that logs everything.
func start(t *testing.T, h *lab.Host, config string) *daemon {
	t.Helper()
	return startSilent(t, h, config+"\n[log]\nlevel = \"debug\"\n")
}

// startSilent starts the daemon with a configuration, at its default log level, and
// waits until it is ready. At the end of the test the daemon is stopped: it must exit
// with 0 and leave nothing behind.
func startSilent(t *testing.T, h *lab.Host, config string) *daemon {
	t.Helper()
	d := &daemon{host: h, log: &transcript{}}
	cmd := program("run", "-c", configFile(t, config))
	cmd.Stderr = d.log
	var err error
	if d.process, err = h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.end(t)
		if t.Failed() {
			t.Logf("the log of the daemon on %s:\n%s", h.Name(), d.log)
		}
	})
	labtest.Eventually(t, "the daemon is ready or has ended", func() bool {
		select {
		case <-d.process.Done():
			t.Fatalf("the daemon ended: %v\n%s", d.process.Wait(), d.log)
		default:
		}
		return d.log.count("msg=ready") == 1
	})
	return d
}

func configFile(t *testing.T, config string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ftpctd.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// end stops the daemon, if it still runs, and checks that it left nothing behind.
func (d *daemon) end(t *testing.T) {
	t.Helper()
	_ = d.process.Signal(unix.SIGTERM) // fails only if it has ended
	select {
	case <-d.process.Done():
	case <-time.After(labtest.Patience):
		_ = d.process.Signal(unix.SIGQUIT) // shows where it hangs
		t.Errorf("the daemon still runs %v after SIGTERM", labtest.Patience)
	}
	err := d.process.Wait()
	if d.log.count("DATA RACE") > 0 {
		t.Error("the daemon has a data race")
	}
	if d.killed {
		return
	}
	if err != nil {
		t.Errorf("the daemon ended with %v, want exit code 0", err)
	}
	if diff := cmp.Diff([]string(nil), traces(t, d.host)); diff != "" {
		t.Errorf("left behind on %s (-want +got):\n%s", d.host.Name(), diff)
	}
}

// kill ends the daemon without a chance to clean up.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	d.killed = true
	if err := d.process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-d.process.Done()
}

// expectLog waits for a line of the log that contains all the words.
func (d *daemon) expectLog(t *testing.T, words ...string) {
	t.Helper()
	labtest.Eventually(t, fmt.Sprintf("the daemon logs %q", words), func() bool { return d.log.count(words...) > 0 })
}

// traces lists what daemons own in a host's namespace: tables, queues, expectations and
// locks.
func traces(t *testing.T, h *lab.Host) []string {
	t.Helper()
	var found []string
	tables, err := (&nftables.Conn{NetNS: h.NetNS()}).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if strings.HasPrefix(table.Name, "ftpctd") {
			found = append(found, "table "+table.Name)
		}
	}
	err = h.Do(func() error {
		queues, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		if err != nil {
			return err
		}
		locked := false
		for line := range strings.Lines(string(queues)) {
			if num := strings.Fields(line)[0]; num == strconv.Itoa(config.LockQueue) {
				locked = true
			} else {
				found = append(found, "queue "+num)
			}
		}
		c, err := ctnetlink.Dial()
		if err != nil {
			return err
		}
		expectations, err := c.Expectations()
		for _, x := range expectations {
			found = append(found, fmt.Sprintf("expectation %s > %s", x.Tuple.Src.Addr(), x.Tuple.Dst))
		}
		if locked {
			found = append(found, "lock")
		}
		return errors.Join(err, c.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// earlyHooks returns the daemon's base chains ahead of conntrack, which cost every packet.
func earlyHooks(t *testing.T, h *lab.Host) (names []string) {
	t.Helper()
	chains, err := (&nftables.Conn{NetNS: h.NetNS()}).ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if c.Table.Name == "ftpctd" && c.Hooknum != nil && *c.Priority < *nftables.ChainPriorityConntrack {
			names = append(names, c.Name)
		}
	}
	return names
}

// modes are the admission modes that the kernel supports: "helper" needs user-space
// helpers.
func modes(t *testing.T) []string {
	t.Helper()
	kernel, err := ctnetlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	if _, err := kernel.Helpers(); err != nil {
		return []string{"expect", "entry"}
	}
	return []string{"expect", "entry", "helper"}
}

// running are the traces of one daemon that expects nothing.
var running = []string{"table ftpctd", "queue 21", "lock"}

// result is how a program ended.
type result struct {
	Code           int
	Stdout, Stderr string
}

// execute runs the program in a host until it exits on its own.
func execute(t *testing.T, h *lab.Host, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := program(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(labtest.Patience):
		_ = p.Stop()
		t.Fatalf("%q still runs after %v", args, labtest.Patience)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// netFile reads a file of /proc/net as it is on a host.
func netFile(t *testing.T, h *lab.Host, name string) string {
	t.Helper()
	var text []byte
	err := h.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/" + name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// mustRead reads a counter of a firewall.
func mustRead(t *testing.T, counter func() (uint64, error)) uint64 {
	t.Helper()
	n, err := counter()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// installDropFirewall installs a default-drop firewall on a host, which accepts port 21,
// established and related.
func installDropFirewall(t *testing.T, h *lab.Host, hooks ...lab.Hook) *lab.Firewall {
	t.Helper()
	fw, err := h.DropFirewall(hooks...)
	if err != nil {
		t.Fatal(err)
	}
	return fw
}

// smallFile is the size of a file of many segments, in bytes.
const smallFile = 200_000

// expectTransferBlocked tries a download whose data connection a firewall must drop;
// dropped is its counter. The control connection must stay alive.
func expectTransferBlocked(ctx context.Context, t *testing.T, dropped func() (uint64, error), c *miniftp.Client, via ftpparse.Via, name string) {
	t.Helper()
	before := mustRead(t, dropped)
	watch, stop := context.WithCancel(ctx)
	risen := make(chan struct{})
	go func() {
		defer close(risen)
		_ = lab.AwaitRise(watch, dropped, before)
	}()
	c.GiveUp = risen
	_, err := c.Retr(ctx, via, name)
	stop()
	<-risen
	c.GiveUp = nil
	if !errors.Is(err, miniftp.ErrNoDataConnection) {
		t.Errorf("a download via %s: got %v, want %v", via, err, miniftp.ErrNoDataConnection)
	} else if mustRead(t, dropped) == before {
		t.Errorf("a download via %s fails, but no packet was dropped: %v", via, err)
	}
	checkAlive(ctx, t, c)
}

// checkAlive fails the test if a control connection does not work.
func checkAlive(ctx context.Context, t *testing.T, c *miniftp.Client) {
	t.Helper()
	if _, err := c.Command(ctx, 200, "NOOP"); err != nil {
		t.Errorf("the control connection is dead: %v", err)
	}
}

// expectConnect opens a TCP connection from a host, and closes it.
func expectConnect(ctx context.Context, t *testing.T, from *lab.Host, local, remote netip.AddrPort) {
	t.Helper()
	conn, err := from.DialTCP(ctx, local, remote)
	if err != nil {
		t.Errorf("%s cannot connect to %s: %v", from.Name(), remote, err)
		return
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// expectBlocked tries to open a TCP connection from a host: the firewall must drop it.
func expectBlocked(ctx context.Context, t *testing.T, fw *lab.Firewall, from *lab.Host, local, remote netip.AddrPort) {
	t.Helper()
	if conn := dialUnlessDropped(ctx, t, fw, from, local, remote); conn != nil {
		_ = conn.Close()
		t.Errorf("%s can connect to %s", from.Name(), remote)
	}
}

// dialUnlessDropped opens a TCP connection. It returns nil if the firewall drops a
// packet instead.
func dialUnlessDropped(ctx context.Context, t *testing.T, fw *lab.Firewall, n miniftp.Network, local, remote netip.AddrPort) net.Conn {
	t.Helper()
	before := mustRead(t, fw.Dropped)
	ctx, cancel := context.WithTimeout(ctx, labtest.Patience)
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = lab.AwaitRise(ctx, fw.Dropped, before)
		cancel()
	})
	conn, err := n.DialTCP(ctx, local, remote)
	cancel()
	watching.Wait()
	if err == nil {
		return conn
	}
	if mustRead(t, fw.Dropped) == before {
		t.Errorf("cannot connect to %s, but no packet was dropped: %v", remote, err)
	}
	return nil
}

// listen listens on a host until the end of the test, and accepts everything.
func listen(ctx context.Context, t *testing.T, h *lab.Host, local netip.AddrPort) {
	t.Helper()
	l := labtest.Listen(ctx, t, h, local)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
}

// hostPort writes an IPv4 endpoint as PORT and 227 do (RFC 959 section 4.1.2).
func hostPort(ap netip.AddrPort) string {
	return string(ftpparse.PORT.AppendEndpoint(nil, ap))
}
