package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// qemu is the emulator's program.
const qemu = "qemu-system-x86_64"

// The files that QEMU inherits. The first three are the ports 1 to 3.
const (
	stdoutFD = 3 + iota
	stderrFD
	controlFD
	initramfsFD
)

// machine is one run of QEMU.
type machine struct {
	stdout, stderr io.Writer
	console        *console
	systemd        bool

	// Written by the reader of the control port.
	started time.Time
	exited  time.Time
	result  Result
}

func newMachine(o Options) *machine {
	m := &machine{stdout: o.Stdout, stderr: o.Stderr, console: &console{w: o.Console}, systemd: o.Systemd}
	for _, w := range []*io.Writer{&m.stdout, &m.stderr, &m.console.w} {
		if *w == nil {
			*w = io.Discard
		}
	}
	return m
}

// arguments returns the command line of QEMU.
func (m *machine) arguments(k Kernel) []string {
	// After an oops the machine might hang, so it panics.
	cmdline := "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off"
	if m.systemd {
		cmdline += " systemd.unit=vm.service fstab=no" +
			// Without a machine ID systemd assumes a first boot and enables
			// all services.
			" systemd.machine_id=66747063746474657374766d00000001" +
			" systemd.crash_reboot=yes"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// One CPU: while it patches code (static keys, such as those of netfilter's
		// hooks), an emulated second one may execute the half-patched code, and
		// the kernel panics.
		"-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "2048",
		"-kernel", k.Image, "-initrd", fdPath(initramfsFD), "-append", cmdline,
		"-serial", "stdio",
		// The first virtio device, so that its ports are /dev/vport0p1 and so on.
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=stdout,path=" + fdPath(stdoutFD), "-device", "virtserialport,nr=1,chardev=stdout",
		"-chardev", "file,id=stderr,path=" + fdPath(stderrFD), "-device", "virtserialport,nr=2,chardev=stderr",
		"-chardev", "file,id=control,path=" + fdPath(controlFD), "-device", "virtserialport,nr=3,chardev=control",
		"-device", "virtio-rng-pci",
		// The host's mounts appear as one tree, so inode numbers may collide.
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
	}
}

func fdPath(fd int) string { return fmt.Sprintf("/dev/fd/%d", fd) }

// run runs QEMU until the command has exited, the context has ended, or
// something fails.
func (m *machine) run(ctx context.Context, program string, k Kernel, initramfs *os.File) error {
	group, groupCtx := errgroup.WithContext(ctx)
	qemuCtx, switchOff := context.WithCancel(groupCtx)
	defer switchOff()

	cmd := exec.CommandContext(qemuCtx, program, m.arguments(k)...)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	// QEMU dies with this process but does not get the signals of its terminal:
	// the caller cancels the context for those.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	var begun time.Time
	var ours, theirs []*os.File
	defer func() { closeAll(ours) }()
	defer func() { closeAll(theirs) }()
	readers := []func(io.Reader) error{
		func(r io.Reader) error { return forward(m.stdout, r) },
		func(r io.Reader) error { return forward(m.stderr, r) },
		func(r io.Reader) error { return m.readControl(r, switchOff) },
	}
	for range readers {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	cmd.ExtraFiles = append(theirs, initramfs)

	// The kernel sends Pdeathsig when the thread that started QEMU exits.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun = time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	closeAll(theirs)
	theirs = nil
	for i, read := range readers {
		group.Go(func() error { return read(ours[i]) })
	}
	err := cmd.Wait()
	readErr := group.Wait()
	switch {
	case readErr != nil:
		return readErr
	case !m.exited.IsZero():
		m.result.Boot = m.started.Sub(begun)
		m.result.Elapsed = m.exited.Sub(m.started)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("QEMU: %w", err)
	}
	if said := m.console.panicked(); said != "" {
		return fmt.Errorf("%w: %s", ErrPanic, said)
	}
	return errors.New("the machine stopped by itself")
}

// readControl reads the guest's reports, one per line, and switches the machine off
// after the last one. It fails if the guest reports that it cannot run the command.
func (m *machine) readControl(r io.Reader, switchOff func()) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		verb, argument, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "start":
			m.started = time.Now()
		case "exit":
			code, err := strconv.Atoi(argument)
			if err != nil {
				return fmt.Errorf("the guest's exit code: %w", err)
			}
			m.result.ExitCode, m.exited = code, time.Now()
			switchOff()
		case "fail":
			return errors.New(strings.TrimSpace(argument))
		default:
			return fmt.Errorf("the guest reported %q, which is not in the protocol", lines.Text())
		}
	}
	return lines.Err()
}

// forward copies a stream of the guest to the caller's writer.
func forward(w io.Writer, r io.Reader) error {
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("forward the command's output: %w", err)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a pipe
	}
}
