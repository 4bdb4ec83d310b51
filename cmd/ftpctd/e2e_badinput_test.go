package main_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/nfq"
)

// TestNoPermission runs commands that need CAP_NET_ADMIN without it: as a user, and as
// root in a container with fewer capabilities. The error is one sentence, with exit code
// 4.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	want := result{4, "", "ftpctd: CAP_NET_ADMIN is required for packet queues and firewall rules: run ftpctd as root\n"}
	for _, tt := range []struct {
		name string
		// without takes the capability from a command, or from the thread that
		// will start it.
		without func(*syscall.SysProcAttr) error
	}{
		{"user", func(attr *syscall.SysProcAttr) error {
			attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			return nil
		}},
		{"container", func(*syscall.SysProcAttr) error {
			return unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0)
		}},
	} {
		for _, command := range []string{"run", "demo"} {
			t.Run(tt.name+" "+command, func(t *testing.T) {
				l := labtest.New(t, lab.Config{})
				var stdout, stderr bytes.Buffer
				cmd := program(command)
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				// The user may not look into the directory of the program.
				file, err := os.Open(cmd.Path)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				cmd.ExtraFiles = []*os.File{file}
				cmd.Path = "/proc/self/fd/3"

				_ = l.Client.Do(func() error {
					// The thread is not to be used again: it stays locked.
					runtime.LockOSThread()
					if err = tt.without(cmd.SysProcAttr); err == nil {
						err = cmd.Start()
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait() // the exit code says it
				if diff := cmp.Diff(want, result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}); diff != "" {
					t.Errorf("without CAP_NET_ADMIN (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]string(nil), traces(t, l.Client)); diff != "" {
					t.Errorf("left behind (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestRefusals starts the daemon where it cannot run. It must report the problem and a
// fix, and change nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	for _, tt := range []struct {
		name, config string
		code         int
		want         []string // in what it says, FILE being the configuration
	}{
		{
			"a carrier that reads", "admit = \"expect\"\n[helper]\ncarrier = \"irc\"\n", 6,
			[]string{`FILE:3:1: helper.carrier: "irc" inspects the connections itself`, "allowed: sane"},
		},
		{
			"unknown key", "ports = [21]\nport = 21\n", 6,
			[]string{"FILE:2:1: port: is unknown; allowed: ports, "},
		},
		{
			"wrong value", "[passive]\n  address = \"client\"\n", 6,
			[]string{`FILE:2:3: passive.address: "client" is unknown; allowed: peer, strict, reply`},
		},
		{
			"no TOML", "ports = [21\n", 6,
			[]string{"FILE:2:1: expected character ]"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := configFile(t, tt.config)
			got := execute(t, l.Router, "run", "-c", file)
			if got.Code != tt.code || got.Stdout != "" {
				t.Errorf("exit code %d, want %d; on stdout %q, want nothing", got.Code, tt.code, got.Stdout)
			}
			for _, want := range tt.want {
				want = strings.ReplaceAll(want, "FILE", file)
				if !strings.Contains(got.Stderr, want) {
					t.Errorf("%q is not in:\n%s", want, got.Stderr)
				}
			}
			if diff := cmp.Diff([]string(nil), traces(t, l.Router)); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("configuration missing", func(t *testing.T) {
		got := execute(t, l.Router, "run", "-c", "/nonexistent/ftpctd.toml")
		want := result{6, "", "ftpctd: open /nonexistent/ftpctd.toml: no such file or directory\n"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestUnsupportedKeys sets keys that the daemon accepts but does not support yet: it
// warns.
func TestUnsupportedKeys(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	d := start(t, l.Router, "[metrics]\nlisten = \"127.0.0.1:9621\"\n[control]\nsocket = \"/run/ftpctd.sock\"\n")
	for _, key := range []string{"metrics.listen", "control.socket"} {
		if n := d.log.count("level=WARN", key); n != 1 {
			t.Errorf("%d warnings of %s, want 1", n, key)
		}
	}
}

// TestQueueTaken binds the queue in another process: this one.
func TestQueueTaken(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	var queue *nfq.Queue
	err := l.Router.Do(func() (err error) {
		queue, err = nfq.Open(nfq.Config{Num: 21})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()

	got := execute(t, l.Router, "run", "-c", os.DevNull)
	owner := fmt.Sprintf("already bound by process %d (", os.Getpid())
	if got.Code != 1 || !strings.Contains(got.Stderr, owner) || !strings.Contains(got.Stderr, "queue.num") {
		t.Errorf("exit code %d, want 1 and %q and queue.num in:\n%s", got.Code, owner, got.Stderr)
	}
	if diff := cmp.Diff([]string{"queue 21"}, traces(t, l.Router)); diff != "" {
		t.Errorf("beside the queue of the test (-want +got):\n%s", diff)
	}
	t.Run("another number", func(t *testing.T) {
		start(t, l.Client, "[queue]\nnum = 22\n")
		if diff := cmp.Diff([]string{"table ftpctd", "queue 22", "lock"}, traces(t, l.Client)); diff != "" {
			t.Errorf("of the daemon (-want +got):\n%s", diff)
		}
	})
}

// TestSecondDaemon starts a daemon beside another one, which fails, and in another
// namespace, which works.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	firewalls := []*lab.Firewall{
		installDropFirewall(t, l.Router, lab.Forward),
		installDropFirewall(t, l.Client, lab.Output, lab.Input),
		installDropFirewall(t, l.Server, lab.Output, lab.Input),
	}
	d := start(t, l.Router, "")
	got := execute(t, l.Router, "run", "-c", configFile(t, "[queue]\nnum = 22\n"))
	want := result{1, "", fmt.Sprintf(
		"ftpctd: ftpctd is already running in this network namespace (process %d)\n", d.process.Pid())}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the second daemon (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
		t.Errorf("of the first daemon (-want +got):\n%s", diff)
	}

	start(t, l.Client, "")
	start(t, l.Server, "")
	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		labtest.RoundTrip(ctx, t, labtest.Connect(ctx, t, l.Client, w.Server), s, w)
	}
	for _, fw := range firewalls {
		if got, want := mustRead(t, fw.Related), uint64(2*len(miniftp.Ways(l.Server.Addrs()...))); got != want {
			t.Errorf("%d related packets for %d data connections", got, want)
		}
	}
}

// TestStrangersLock is an unprivileged user who binds whatever could keep the daemon
// from starting.
func TestStrangersLock(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	err := l.Router.Do(func() error {
		runtime.LockOSThread() // for good: the thread ends with its rights
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			return errno
		}
		for _, num := range []uint16{21, config.LockQueue} {
			if q, err := nfq.Open(nfq.Config{Num: num}); err == nil {
				t.Errorf("a user can bind queue %d", num)
				_ = q.Close()
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrUnix{Name: "@ftpctd"})
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, l.Router, "")
}

// TestLockTaken binds the queue that is the daemon's lock in another program: this one.
func TestLockTaken(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	var queue *nfq.Queue
	err := l.Router.Do(func() (err error) {
		queue, err = nfq.Open(nfq.Config{Num: config.LockQueue})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	got := execute(t, l.Router, "run", "-c", os.DevNull)
	owner := fmt.Sprintf("already bound by process %d (", os.Getpid())
	if got.Code != 1 || !strings.Contains(got.Stderr, owner) {
		t.Errorf("exit code %d, want 1 and %q in:\n%s", got.Code, owner, got.Stderr)
	}
}

// TestTruncatedCapture replays a capture that ends in the middle of a packet.
func TestTruncatedCapture(t *testing.T) {
	t.Parallel()
	whole := capture(t,
		"S:220 hello", "C:USER a", "S:331 password?", "C:PASS b", "S:230 ok",
		"C:PORT 192,168,0,211,154,208", "S:200 ok", "C:QUIT",
	)
	file := filepath.Join(t.TempDir(), "cut.pcap")
	if err := os.WriteFile(file, whole[:len(whole)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := program("replay", "--json", file)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	const want = `{"time":"1970-01-01T00:00:01Z","event":"open","client":"192.168.0.211:40000","server":"192.168.0.201:21","reason":"picked-up"}
{"time":"1970-01-01T00:00:05Z","event":"expect","client":"192.168.0.211:40000","server":"192.168.0.201:21","via":"PORT","mode":"active","src":"192.168.0.201","dst":"192.168.0.211","dport":39632}
{"event":"summary","packets":7,"sessions":1,"expect":1,"reject":0}
`
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Errorf("what could be read (-want +got):\n%s", diff)
	}
	if got := stderr.String(); !strings.HasPrefix(got, "ftpctd: "+file+": ") || strings.Count(got, "\n") != 1 {
		t.Errorf("the error %q, want one line that names the file", got)
	}
}

// capture is a pcap of lines of a client (C:) and a server (S:), one a packet
// and a second, of a connection without a handshake.
func capture(t *testing.T, lines ...string) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	client := netip.MustParseAddrPort("192.168.0.211:40000")
	server := netip.MustParseAddrPort("192.168.0.201:21")
	next := map[netip.AddrPort]uint32{client: 1, server: 1}
	for i, line := range lines {
		src, dst := client, server
		text, fromServer := strings.CutPrefix(line, "S:")
		if fromServer {
			src, dst = server, client
		} else {
			text = strings.TrimPrefix(line, "C:")
		}
		payload := gopacket.Payload(text + "\r\n")
		ip := &layers.IPv4{
			Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
			SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
		}
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
			Seq: next[src], Ack: next[dst], ACK: true, PSH: true, Window: 65535,
		}
		next[src] += uint32(len(payload))
		b := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, ip, tcp, payload)
		if err != nil {
			t.Fatal(err)
		}
		err = w.WritePacket(gopacket.CaptureInfo{
			Timestamp:     time.Unix(int64(i), 0),
			CaptureLength: len(b.Bytes()), Length: len(b.Bytes()),
		}, b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}
