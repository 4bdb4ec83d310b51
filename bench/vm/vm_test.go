package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
)

// fakeQEMU replaces QEMU with a shell script that plays the guest: its descriptors
// 3, 4 and 5 are the command's output, its error output and the control port. It
// returns a kernel to boot.
func fakeQEMU(t *testing.T, script string) Kernel {
	t.Helper()
	if err := checkStatic(busybox); err != nil {
		labtest.Unmet(t, err.Error())
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bin", qemu), "#!/bin/sh\n"+script+"\n")
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	modules := filepath.Join(dir, "lib/modules/6.1.0-test")
	write(t, filepath.Join(modules, "modules.builtin"), strings.Join(bootModules, ".ko\n")+".ko\n")
	write(t, filepath.Join(modules, "modules.dep"), "")
	return Kernel{Name: "6.1", Image: filepath.Join(dir, "boot/vmlinuz-6.1.0-test"), Modules: modules}
}

func TestRun(t *testing.T) {
	k := fakeQEMU(t, `
		echo booting; echo start >&5
		for i in 1 2 3; do echo "out $i" >&3; echo "err $i" >&4; done
		echo exit 7 >&5
		exec sleep 1000`)
	var stdout, stderr, console bytes.Buffer
	result, err := Run(t.Context(), k, Options{
		Command: []string{"x"}, Stdout: &stdout, Stderr: &stderr, Console: &console,
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.ExitCode != 7 || result.Boot <= 0 || result.Elapsed <= 0 {
		t.Errorf("got %+v, want exit code 7 and both times", result)
	}
	got := []string{stdout.String(), stderr.String(), console.String()}
	want := []string{"out 1\nout 2\nout 3\n", "err 1\nerr 2\nerr 3\n", "booting\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

// What QEMU gets to boot has the kernel's name, the command and its words.
func TestRunBoots(t *testing.T) {
	k := fakeQEMU(t, `
		echo start >&5
		echo "$@" >&3
		/bin/busybox cpio -i -d vm/command.sh vm/parameters </dev/fd/6 2>/dev/null
		cat vm/command.sh vm/parameters >&3
		echo exit 0 >&5
		exec sleep 1000`)
	t.Chdir(t.TempDir())
	var stdout strings.Builder
	_, err := Run(t.Context(), k, Options{
		Command: []string{"echo", "it's"}, Dir: "/srv", Env: []string{"A=b"}, Modules: []string{"veth", "dummy"}, Stdout: &stdout,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"-kernel " + k.Image, "-accel tcg", "-no-reboot", "readonly=on",
		"cd '/srv' || exit 127\nexec env -i -- 'A=b' 'echo' 'it'\\''s'\n",
		"release='6.1.0-test'\n", "preload='veth dummy'\n", "systemd=''\n",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the machine lacks %q:\n%s", want, stdout.String())
		}
	}
}

func TestRunErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		want   []string
	}{
		"QEMU fails": {
			"echo no such machine >&2; exit 1",
			[]string{"vm: kernel 6.1: boot: QEMU: exit status 1", "no such machine"},
		},
		"the guest stops in its boot": {
			"echo no root",
			[]string{"vm: kernel 6.1: boot: the machine stopped by itself", "\tno root"},
		},
		"the guest panics in the command": {
			"echo start >&5; echo '[ 1.2] Kernel panic - not syncing: Fatal exception'",
			[]string{"vm: kernel 6.1: run x: the guest's kernel panicked: Fatal exception;", "\t[ 1.2] Kernel panic"},
		},
		"only the end of a panic is left": {
			"echo '[ 1.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---'",
			[]string{"vm: kernel 6.1: boot: the guest's kernel panicked: Attempted to kill init!;"},
		},
		"a module cannot be loaded": {
			"echo 'fail modprobe: FATAL: Module y not found ' >&5; exec sleep 1000",
			[]string{"vm: kernel 6.1: boot: modprobe: FATAL: Module y not found"},
		},
		"a strange exit code": {
			"echo start >&5; echo exit >&5; exec sleep 1000",
			[]string{"vm: kernel 6.1: run x: the guest's exit code"},
		},
		"a strange report": {
			"echo hello >&5; exec sleep 1000",
			[]string{`vm: kernel 6.1: boot: the guest reported "hello"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := Run(t.Context(), fakeQEMU(t, tt.script), Options{Command: []string{"x"}})
			if _, ok := errors.AsType[*OpError](err); !ok {
				t.Fatalf("got %+v and error %v, want an *OpError", result, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
			if got, want := errors.Is(err, ErrPanic), strings.Contains(name, "panic"); got != want {
				t.Errorf("is it a panic: %t, want %t", got, want)
			}
		})
	}
}

func TestRunPrerequisites(t *testing.T) {
	k := fakeQEMU(t, "echo started; exit 1")
	noModules := k
	noModules.Modules = t.TempDir()
	for name, tt := range map[string]struct {
		k    Kernel
		o    Options
		path string
		want string
	}{
		"no command": {k: k, path: os.Getenv("PATH"), want: "vm: kernel 6.1: build the initramfs: no command"},
		"no modules": {k: noModules, o: Options{Command: []string{"x"}}, path: os.Getenv("PATH"), want: "modules.builtin: no such file"},
		"no QEMU":    {k: k, o: Options{Command: []string{"x"}}, path: t.TempDir(), want: "install-deps.sh"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", tt.path)
			if _, err := Run(t.Context(), tt.k, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// The end of the context, and a reader that is gone, end QEMU; nothing stays.
func TestRunStops(t *testing.T) {
	errGone := errors.New("gone")
	for name, tt := range map[string]struct {
		timeout time.Duration // cancelled at the command's first output if 0
		write   func(context.CancelFunc) error
		want    error
	}{
		"timeout":         {200 * time.Millisecond, func(context.CancelFunc) error { return nil }, context.DeadlineExceeded},
		"cancel":          {0, func(cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled},
		"a failed writer": {0, func(context.CancelFunc) error { return errGone }, errGone},
	} {
		t.Run(name, func(t *testing.T) {
			k := fakeQEMU(t, "echo start >&5; echo $$ >&3; exec sleep 1000")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.timeout > 0 {
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			var pid int
			_, err := Run(ctx, k, Options{Command: []string{"x"}, Stdout: writerFunc(func(p []byte) (int, error) {
				pid, _ = strconv.Atoi(strings.TrimSpace(string(p)))
				return len(p), tt.write(cancel)
			})})
			if !errors.Is(err, tt.want) {
				t.Errorf("got error %v, want %v", err, tt.want)
			}
			// A timeout may come before the script could say its process id.
			if pid == 0 && tt.timeout > 0 {
				return
			}
			if err := unix.Kill(pid, 0); pid == 0 || !errors.Is(err, unix.ESRCH) {
				t.Errorf("signal to process %d: got error %v, want %v", pid, err, unix.ESRCH)
			}
		})
	}
}

func TestRunLeavesNoFile(t *testing.T) {
	k := fakeQEMU(t, "echo start >&5; echo exit 0 >&5; exec sleep 1000")
	var open []int
	for range 3 {
		if _, err := Run(t.Context(), k, Options{Command: []string{"x"}}); err != nil {
			t.Fatal(err)
		}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, len(fds))
	}
	// The first run may open what the runtime keeps.
	if open[2] > open[1] {
		t.Errorf("files open after each run: %v, want no growth", open)
	}
}

func TestConsole(t *testing.T) {
	var w bytes.Buffer
	c := &console{w: &w}
	for i := range 1000 {
		if _, err := fmt.Fprintf(c, "line %d\r\n", i); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSuffix(c.String(), "\n"), "\n")
	for i, line := range lines {
		if want := fmt.Sprintf("line %d", 1000-len(lines)+i); line != want {
			t.Fatalf("line %d of the tail: got %q, want %q", i, line, want)
		}
	}
	if n := len(c.String()); n > consoleTail || n < consoleTail*3/4 {
		t.Errorf("the tail has %d bytes, want about %d", n, consoleTail)
	}
	if !strings.HasPrefix(w.String(), "line 0\r\n") {
		t.Errorf("passed on: %.20q, want everything", w.String())
	}
	short := &console{w: io.Discard}
	_, _ = short.Write([]byte("no line end"))
	if got := short.String(); got != "no line end" {
		t.Errorf("got %q, want all of a short output", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
