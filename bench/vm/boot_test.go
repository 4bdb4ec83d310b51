package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bootTimeout is for one machine. It is long: others may use the processors.
const bootTimeout = 10 * time.Minute

// wanted names the environment variable with the kernel to boot, or "all".
const wanted = "FTPCTD_VM"

// kernels returns the kernels to boot. It skips the test unless it was asked
// for, because a boot takes a long time.
func kernels(t *testing.T) []Kernel {
	t.Helper()
	name := os.Getenv(wanted)
	if name == "" {
		t.Skip("boots virtual machines: run sudo make test-vm")
	}
	ks, err := Kernels()
	if err != nil {
		t.Fatal(err)
	}
	if name != "all" {
		ks = slices.DeleteFunc(ks, func(k Kernel) bool { return k.Name != name })
	}
	if len(ks) == 0 {
		t.Fatalf("%s=%s, and there is no such kernel: run sudo sh bench/vm/install-deps.sh %[2]s", wanted, name)
	}
	return ks
}

// Where everything is installed, the installer is silent.
func TestInstallDeps(t *testing.T) {
	kernels(t)
	out, err := exec.Command("sh", "install-deps.sh", os.Getenv(wanted)).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("got error %v and output %q, want neither", err, out)
	}
}

// A kernel of a distribution runs a command on this machine's files, with systemd
// and without. All that the command writes arrives, and so does its exit code; what
// it writes to files and what it leaves running goes with the machine.
func TestBoot(t *testing.T) {
	const script = `
		uname -r
		cat /proc/1/comm
		grep -o '^nf_conntrack_ftp ' /proc/modules
		ls /boot/vmlinuz-$(uname -r)
		cat file
		echo 'from the guest' >file && cat file
		seq 100000 | tail -n 1 >&2
		sleep 1000 &
		seq 100000
		exit 7`
	for _, k := range kernels(t) {
		for init, systemd := range map[string]bool{"sh": false, "systemd": true} {
			t.Run(k.Name+"/"+init, func(t *testing.T) {
				dir := t.TempDir()
				write(t, filepath.Join(dir, "file"), "from the host\n")
				var stdout, stderr bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
				defer cancel()
				result, err := Run(ctx, k, Options{
					Command: []string{"sh", "-c", script}, Dir: dir, Modules: []string{"nf_conntrack_ftp"}, Systemd: systemd,
					Stdout: &stdout, Stderr: &stderr,
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("booted in %s, ran %s", result.Boot.Round(time.Millisecond), result.Elapsed.Round(time.Millisecond))
				if result.ExitCode != 7 {
					t.Errorf("exit code %d, want 7", result.ExitCode)
				}
				var want strings.Builder
				fmt.Fprintf(&want, "%s\n%s\nnf_conntrack_ftp \n/boot/vmlinuz-%[1]s\nfrom the host\nfrom the guest\n", k.Release(), init)
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
