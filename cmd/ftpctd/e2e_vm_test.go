package main_test

import (
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
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// guestProgram names, in the environment of a virtual machine with systemd, the
// program to install there: what make builds. This test binary under another name
// will not do, nor will the race detector, which the sandbox does not let be.
const guestProgram = "FTPCTD_SYSTEMD_PROGRAM"

// TestSystemd installs the program on the machine that it runs on, which must be a
// virtual one with systemd as PID 1, and runs it under systemd.
func TestSystemd(t *testing.T) {
	program := os.Getenv(guestProgram)
	if program == "" {
		t.Skip("installs the daemon on the machine: make test-vm runs it in a virtual one")
	}
	before := strays(t)
	// The program is built already: true stands in for go.
	mustRun(t, "make", "-C", root, "install", "GO=true", "BIN="+program, "PREFIX=/usr")
	for _, args := range []string{
		"-P INPUT DROP",
		"-A INPUT -p tcp --dport 21 -j ACCEPT",
		"-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
	} {
		mustRun(t, "iptables-nft", strings.Fields(args)...)
	}
	s := serveLoopback(t)

	// Without the daemon.
	s.expectTransfer(t, ftpparse.R227, false)

	mustRun(t, "systemctl", "enable", "--now", "ftpctd.service")
	pid := mainPID(t)
	checkSandbox(t, pid)
	for _, via := range []ftpparse.Via{ftpparse.PORT, ftpparse.EPRT, ftpparse.R227, ftpparse.R229} {
		s.expectTransfer(t, via, true)
	}
	labtest.Eventually(t, "the status counts", func() bool {
		return strings.Contains(property(t, "StatusText"), "4 data connections expected, 0 rejected")
	})

	// The sandbox keeps nothing from it that it would miss.
	if log := journal(t); strings.Contains(log, "level=WARN") {
		t.Errorf("the service warns:\n%s", log)
	}

	// A broken configuration is reported and changes nothing.
	const config = "/etc/ftpctd/ftpctd.toml"
	reference, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rewrite("[active]\nenabled = \"no\"\n")
	if out, err := exec.Command("systemctl", "reload", "ftpctd.service").CombinedOutput(); err == nil {
		t.Errorf("systemctl reload takes a broken configuration: %s", out)
	}
	s.expectTransfer(t, ftpparse.PORT, true)
	rewrite("[active]\nenabled = false\n")
	mustRun(t, "systemctl", "reload", "ftpctd.service")
	labtest.Eventually(t, "the log says that the configuration was read", func() bool {
		return strings.Contains(journal(t), "configuration reloaded")
	})
	s.expectTransfer(t, ftpparse.PORT, false)
	s.expectTransfer(t, ftpparse.R227, true)
	if got := mainPID(t); got != pid {
		t.Errorf("reloading made process %d of process %d", got, pid)
	}

	// The sandbox lets it register a helper, whose module the kernel loads.
	rewrite("admit = \"helper\"\n")
	mustRun(t, "systemctl", "restart", "ftpctd.service")
	expectRegistered(t, "ftpctd", true)
	s.expectTransfer(t, ftpparse.R227, true)

	rewrite(string(reference))
	mustRun(t, "systemctl", "restart", "ftpctd.service")
	expectRegistered(t, "ftpctd", false)
	s.expectTransfer(t, ftpparse.PORT, true)

	// A daemon that does nothing is ended by the watchdog and started again.
	pid = mainPID(t)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); property(t, "NRestarts") != "1" || property(t, "ActiveState") != "active"; {
		if time.Now().After(end) {
			t.Fatalf("the watchdog does not restart a stopped daemon:\n%s", journal(t))
		}
		time.Sleep(time.Second)
	}
	if got := mainPID(t); got == pid {
		t.Error("after the watchdog the process is the same")
	}
	s.expectTransfer(t, ftpparse.R227, true)

	mustRun(t, "systemctl", "stop", "ftpctd.service")
	s.expectTransfer(t, ftpparse.R227, false)
	mustRun(t, "make", "-C", root, "uninstall", "PREFIX=/usr")
	if diff := cmp.Diff(before, strays(t)); diff != "" {
		t.Errorf("uninstall leaves something (-before +after):\n%s", diff)
	}
	if t.Failed() {
		t.Log(journal(t))
	}
}

// mustRun runs a program that must succeed, and returns its output.
func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, journal(t))
	}
	return strings.TrimSpace(string(out))
}

// journal returns the service's log.
func journal(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("journalctl", "--no-pager", "-u", "ftpctd.service").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// property returns a property of the service.
func property(t *testing.T, name string) string {
	t.Helper()
	return mustRun(t, "systemctl", "show", "--value", "--property="+name, "ftpctd.service")
}

func mainPID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(property(t, "MainPID"))
	if err != nil || pid == 0 {
		t.Fatalf("the service has no process: %v\n%s", err, journal(t))
	}
	return pid
}

// checkSandbox makes sure that the process has CAP_NET_ADMIN and no other capability.
func checkSandbox(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "CapEff", "CapBnd", "NoNewPrivs", "Seccomp":
			got[name] = strings.TrimSpace(value)
		case "Uid":
			if strings.Fields(value)[0] == "0" {
				t.Error("the daemon is root")
			}
		}
	}
	const netAdmin = "0000000000001000"
	want := map[string]string{"CapEff": netAdmin, "CapBnd": netAdmin, "NoNewPrivs": "1", "Seccomp": "2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("process %d (-want +got):\n%s", pid, diff)
	}
}

// strays lists what an installation and a daemon might leave.
func strays(t *testing.T) (found []string) {
	t.Helper()
	for _, pattern := range []string{
		"/usr/sbin/ftpctd*", "/usr/lib/systemd/system/ftpctd*", "/etc/systemd/system/*/ftpctd*",
		"/usr/lib/modules-load.d/ftpctd*", "/etc/ftpctd*", "/run/ftpctd*", "/run/private/ftpctd*",
		"/var/lib/private/ftpctd*", "/run/systemd/system/ftpctd*",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	queues, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
	if err == nil && len(queues) > 0 {
		found = append(found, "queue "+string(queues))
	}
	return found
}

// loopback is a miniftp.Network of the machine itself.
type loopback struct{}

// DialTCP implements miniftp.Network.
func (loopback) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		})
		return errors.Join(controlErr, err)
	}}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	return d.DialContext(ctx, "tcp", remote.String())
}

// ListenTCP implements miniftp.Network.
func (loopback) ListenTCP(ctx context.Context, local netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", local.String())
}

// loopbackServer is an FTP server of the machine itself.
type loopbackServer struct{ addr netip.AddrPort }

func serveLoopback(t *testing.T) loopbackServer {
	t.Helper()
	s := loopbackServer{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), lab.ControlPort)}
	l, err := loopback{}.ListenTCP(t.Context(), s.addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &miniftp.Server{Network: loopback{}, DataTimeout: labtest.Patience}
	server.Put("file", labtest.Content(smallFile))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// expectTransfer downloads a file on a new control connection, which must work, or be
// dropped by the policy of the machine's INPUT chain.
func (s loopbackServer) expectTransfer(t *testing.T, via ftpparse.Via, works bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, err := miniftp.Dial(ctx, loopback{}, s.addr)
	if err != nil {
		t.Fatalf("%v\n%s", err, journal(t))
	}
	defer c.Close()
	c.DataTimeout = labtest.Patience
	if err := c.Login(ctx, "anonymous", "lab@example.com"); err != nil {
		t.Fatalf("%v\n%s", err, journal(t))
	}
	if !works {
		expectTransferBlocked(ctx, t, func() (uint64, error) {
			out, err := exec.Command("iptables-nft", "-L", "INPUT", "-n", "-v", "-x").Output()
			if err != nil {
				return 0, err
			}
			return sumPolicyDrops(out)
		}, c, via, "file")
		return
	}
	if _, err := c.Retr(ctx, via, "file"); err != nil {
		t.Errorf("a download via %s: %v", via, err)
	}
}
