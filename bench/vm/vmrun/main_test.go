package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ftpctd/bench/lab/labtest"
)

// A kernel "boots" here in a script in the place of QEMU, which exits with a
// code of its own for each.
const fakeQEMU = `#!/bin/sh
echo start >&5
case $* in
*vmlinuz-6.1.0*) code=0 ;;
*vmlinuz-6.12.0*) code=5 ;;
*vmlinuz-6.18.0*) code=6 ;;
*) exit 1 ;;
esac
echo "code $code" >&3
echo "exit $code" >&5
exec sleep 1000
`

// fake makes kernels and puts a script into the place of QEMU, whose working
// directory is the one that fake returns.
func fake(t *testing.T, script string, versions ...string) (dir string) {
	t.Helper()
	if _, err := os.Stat("/bin/busybox"); err != nil {
		labtest.Unmet(t, err.Error())
	}
	dir = t.TempDir()
	t.Chdir(dir)
	write(t, filepath.Join(dir, "bin/qemu-system-x86_64"), script)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("XDG_CACHE_HOME", dir)
	for _, version := range versions {
		kernel := filepath.Join(dir, "ftpctd-test/kernels", version)
		write(t, filepath.Join(kernel, "boot/vmlinuz-"+version+".0"), "")
		write(t, filepath.Join(kernel, "lib/modules", version+".0", "modules.dep"), "")
		write(t, filepath.Join(kernel, "lib/modules", version+".0", "modules.builtin"),
			"virtio_pci.ko\nvirtio_console.ko\n9pnet_virtio.ko\n9p.ko\noverlay.ko\n")
	}
	return dir
}

// A machine whose kernel panics is started once more, and no other.
func TestPanic(t *testing.T) {
	for name, tt := range map[string]struct {
		script string // of each start; $starts counts them
		code   int
		starts int
		stderr string // a part of it
	}{
		"once":             {`[ $starts = 1 ] && panic; fail`, 5, 2, "panicked: Fatal exception"},
		"twice":            {`panic`, exitFailed, 2, "panicked: Fatal exception"},
		"a failed command": {`fail`, 5, 1, "Linux 6.1.0"},
		"a failed machine": {`stop`, exitFailed, 1, "stopped by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fake(t, `#!/bin/sh
				echo start >&5
				echo x >>starts
				starts=$(grep -c x starts)
				panic() { echo 'Kernel panic - not syncing: Fatal exception'; exit 0; }
				stop() { exit 0; }
				fail() { echo 'exit 5' >&5; exec sleep 1000; }
				`+tt.script, "6.1")
			var stdout, stderr strings.Builder
			if code := run(t.Context(), []string{"true"}, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d; it said: %s", code, tt.code, stderr.String())
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("error output %q, want it to have %q", stderr.String(), tt.stderr)
			}
			starts, err := os.ReadFile(filepath.Join(dir, "starts"))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(string(starts), "x"); got != tt.starts {
				t.Errorf("started %d times, want %d", got, tt.starts)
			}
		})
	}
}

func TestRun(t *testing.T) {
	dir := fake(t, fakeQEMU, "6.1", "6.12", "6.18", "6.19")

	for name, tt := range map[string]struct {
		args   string
		code   int
		stdout string
		stderr string // a part of it
	}{
		"success":              {"-kernel 6.1 -- true", 0, "code 0\n", "Linux 6.1.0"},
		"the command's code":   {"-kernel 6.12 false", 5, "code 5\n", "Linux 6.12.0"},
		"how long it took":     {"-kernel 6.1 -v true", 0, "code 0\n", "exit code 0"},
		"the machine fails":    {"-kernel 6.19 true", exitFailed, "", "vm: kernel 6.19"},
		"every kernel":         {"true", exitFailed, "code 0\ncode 5\ncode 6\n", "vm: kernel 6.19"},
		"a timeout":            {"-kernel 6.1 -timeout 1ns true", exitFailed, "", "deadline exceeded"},
		"help":                 {"-h", 0, "", "usage: vmrun"},
		"no command":           {"-kernel 6.1", exitUsage, "", "no command"},
		"an unknown flag":      {"-x", exitUsage, "", "usage: vmrun"},
		"an unknown kernel":    {"-kernel 2.4 true", exitUsage, "", "6.1, 6.12, 6.18, 6.19"},
		"an option of command": {"-kernel 6.1 -- true -h", 0, "code 0\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if code := run(t.Context(), strings.Fields(tt.args), &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d; it said: %s", code, tt.code, stderr.String())
			}
			if stdout.String() != tt.stdout {
				t.Errorf("output %q, want %q", stdout.String(), tt.stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("error output %q, want it to have %q", stderr.String(), tt.stderr)
			}
		})
	}

	t.Run("the first failure of several", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(dir, "ftpctd-test/kernels/6.19")); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		if code := run(t.Context(), []string{"true"}, &stdout, &stderr); code != 5 {
			t.Errorf("exit code %d, want 5; it said: %s", code, stderr.String())
		}
	})

	t.Run("no kernel", func(t *testing.T) {
		t.Setenv("XDG_CACHE_HOME", t.TempDir())
		var stdout, stderr strings.Builder
		if code := run(t.Context(), []string{"true"}, &stdout, &stderr); code != exitFailed {
			t.Errorf("exit code %d, want %d", code, exitFailed)
		}
		if want := "install-deps.sh"; !strings.Contains(stderr.String(), want) {
			t.Errorf("error output %q, want it to name %s", stderr.String(), want)
		}
	})
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}
