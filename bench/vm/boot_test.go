package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
)

// bootTimeout is for one machine. It is long: others may use the processors.
const bootTimeout = 10 * time.Minute

// The environment that makes this test binary a program of the guest's.
const guestEnv = "FTPCTD_VM_GUEST=1"

func TestMain(m *testing.M) {
	if name, value, _ := strings.Cut(guestEnv, "="); os.Getenv(name) == value {
		if err := useNetfilter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// kernels returns the kernels to boot. It skips the test unless it was asked
// for, because a boot takes a long time.
func kernels(t *testing.T) []Kernel {
	t.Helper()
	if os.Getenv("FTPCTD_VM") != "1" {
		t.Skip("boots virtual machines, which takes minutes: set FTPCTD_VM=1")
	}
	ks, err := Kernels()
	if err != nil {
		labtest.Unmet(t, err.Error())
	}
	return ks
}

// Where everything is installed, the installer is silent.
func TestInstallDeps(t *testing.T) {
	kernels(t)
	out, err := exec.Command("sh", "install-deps.sh").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("got error %v and output %q, want neither", err, out)
	}
}

// A kernel of a distribution runs our binary, from this machine's files, and
// has what this machine's kernel lacks.
func TestBoot(t *testing.T) {
	for _, k := range kernels(t) {
		t.Run(k.Name, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "file"), "from the host\n")
			script := `
				uname -r
				cat file
				echo 'from the guest' >file && cat file
				ls /boot/vmlinuz-$(uname -r)
				grep -c '^nf_tables ' /proc/modules
				"$1" || exit 1
				grep -c '^nf_tables ' /proc/modules
				seq 100000 | tail -n 1 >&2
				sleep 1000 &
				seq 100000
				exit 7`
			var stdout, stderr bytes.Buffer
			result := boot(t, k, Options{
				Command: []string{"sh", "-c", script, "sh", self}, Dir: dir, Env: append(os.Environ(), guestEnv),
				Stdout: &stdout, Stderr: &stderr,
			})
			if result.ExitCode != 7 {
				t.Errorf("exit code %d, want 7", result.ExitCode)
			}
			var want strings.Builder
			fmt.Fprintf(&want, "%s\nfrom the host\nfrom the guest\n/boot/vmlinuz-%[1]s\n0\n1\n", k.Release())
			for i := range 100000 {
				fmt.Fprintln(&want, i+1)
			}
			if diff := cmp.Diff(want.String(), stdout.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff("100000\n", stderr.String()); diff != "" {
				t.Errorf("error output (-want +got):\n%s", diff)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "from the host\n" {
				t.Errorf("the host's file: got %q, %v, want it unchanged", got, err)
			}
		})
	}
}

// A service with a user of its own and a sandbox runs under systemd, and
// modules that are named are loaded.
func TestBootSystemd(t *testing.T) {
	ks := kernels(t)
	script := `
		systemctl is-system-running --wait
		cat /proc/1/comm
		grep -o '^nf_conntrack_ftp ' /proc/modules
		systemd-run --quiet --pipe --wait --unit probe \
			--property DynamicUser=yes --property AmbientCapabilities=CAP_NET_ADMIN \
			--property CapabilityBoundingSet=CAP_NET_ADMIN --property ProtectSystem=strict \
			--property PrivateTmp=yes --property SystemCallFilter=@system-service \
			sh -c 'id -un; grep CapEff: /proc/self/status; touch /etc/x 2>/dev/null || echo read-only'
		exit 3`
	var stdout, stderr bytes.Buffer
	result := boot(t, ks[len(ks)-1], Options{
		Command: []string{"sh", "-c", script}, Modules: []string{"nf_conntrack_ftp"}, Systemd: true,
		Stdout: &stdout, Stderr: &stderr,
	})
	if result.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", result.ExitCode)
	}
	want := "running\nsystemd\nnf_conntrack_ftp \nprobe\nCapEff:\t0000000000001000\nread-only\n"
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s\nerror output:\n%s", diff, stderr.String())
	}
}

// The end of the context switches off a machine that runs.
func TestBootCancel(t *testing.T) {
	k := kernels(t)[0]
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	var began atomic.Bool
	_, err := Run(ctx, k, Options{
		Command: []string{"sh", "-c", "echo; exec sleep 1000"},
		Stdout: writerFunc(func(p []byte) (int, error) {
			began.Store(true)
			cancel()
			return len(p), nil
		}),
	})
	if !errors.Is(err, context.Canceled) || !began.Load() {
		t.Errorf("got error %v, want %v after the command began (%t)", err, context.Canceled, began.Load())
	}
}

// A module that the kernel has not got is an error that names it.
func TestBootUnknownModule(t *testing.T) {
	k := kernels(t)[0]
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	result, err := Run(ctx, k, Options{Command: []string{"true"}, Modules: []string{"veth", "no_such"}})
	if err == nil || !strings.Contains(err.Error(), "Module no_such not found") {
		t.Errorf("got %+v, error %v, want one that names the module", result, err)
	}
}

func boot(t *testing.T, k Kernel, o Options) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	result, err := Run(ctx, k, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("booted in %s, ran %s", result.Boot.Round(time.Millisecond), result.Elapsed.Round(time.Millisecond))
	return result
}

// useNetfilter runs in the guest. In a network namespace it does what ftpctd
// does on a distribution's kernel: it registers a helper of its own, and loads
// rules that assign it and that queue packets. The kernel must find the modules
// by itself. Nothing is undone: the machine is thrown away.
func useNetfilter() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	const helper = "vmtest"
	if err := registerHelper(helper); err != nil {
		return fmt.Errorf("register a helper: %w", err)
	}

	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "vmtest", Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddObj(&nftables.NamedObj{
		Table: table, Name: "object", Type: nftables.ObjTypeCtHelper,
		Obj: &expr.CtHelper{Name: helper, L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_TCP},
	})
	for _, action := range []expr.Any{
		&expr.Objref{Type: int(nftables.ObjTypeCtHelper), Name: "object"},
		&expr.Queue{Num: 21, Total: 1, Flag: expr.QueueFlagBypass},
	} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			action,
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load the rules: %w", err)
	}
	rules, err := c.GetRules(table, chain)
	if err != nil {
		return fmt.Errorf("list the rules: %w", err)
	}
	if len(rules) != 2 {
		return fmt.Errorf("the kernel has %d rules, want 2", len(rules))
	}
	return nil
}

// registerHelper registers a user-space helper for TCP over IPv4 (kernel:
// net/netfilter/nfnetlink_cthelper.c).
func registerHelper(name string) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is lost
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.String(1, name)                                      // NFCTH_NAME
	ae.Nested(2, func(ae *netlink.AttributeEncoder) error { // NFCTH_TUPLE
		ae.Uint16(1, unix.NFPROTO_IPV4)
		ae.Uint8(2, unix.IPPROTO_TCP)
		return nil
	})
	ae.Nested(4, func(ae *netlink.AttributeEncoder) error { // NFCTH_POLICY
		ae.Uint32(1, 1)
		ae.Nested(2, func(ae *netlink.AttributeEncoder) error {
			ae.String(1, name)
			ae.Uint32(2, 8)
			ae.Uint32(3, 30)
			return nil
		})
		return nil
	})
	ae.Uint32(5, 0) // NFCTH_PRIV_DATA_LEN
	ae.Uint32(6, 0) // NFCTH_STATUS: disabled
	attributes, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_CTHELPER << 8,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
		},
		Data: append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, attributes...),
	})
	return err
}
