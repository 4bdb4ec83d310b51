package vm

import (
	"bufio"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The files of the guest's start, in the order of their use.
var (
	//go:embed init.sh
	initScript []byte
	//go:embed run.sh
	runScript []byte
	//go:embed vm.service
	service []byte
)

// busybox is the one program of the initramfs. It must be static.
const busybox = "/bin/busybox"

// systemd is PID 1 of a machine with systemd.
const systemd = "/lib/systemd/systemd"

// bootModules are the modules that the guest needs to reach the host's files and
// ports. modprobe loads all others.
var bootModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// newInitramfs builds the guest's initial file system in an unnamed file in
// memory, whose offset is 0.
func newInitramfs(k Kernel, o Options) (*os.File, error) {
	if err := checkStatic(busybox); err != nil {
		return nil, err
	}
	modules, err := k.moduleFiles(bootModules)
	if err != nil {
		return nil, err
	}
	command, err := commandScript(o)
	if err != nil {
		return nil, err
	}
	init := ""
	if o.Systemd {
		if _, err := os.Stat(systemd); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errInstall)
		}
		init = systemd
	}
	// Files have the same paths in the guest as on the host.
	modulesDir, err := filepath.Abs(k.Modules)
	if err != nil {
		return nil, err
	}
	boot, err := filepath.Abs(filepath.Dir(k.Image))
	if err != nil {
		return nil, err
	}
	parameters := assign("modules", modulesDir) + assign("boot", boot) + assign("release", k.Release()) +
		assign("systemd", init) + assign("preload", strings.Join(o.Modules, " "))

	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	a := newArchive(f)
	a.directory("bin")
	a.copy("bin/busybox", busybox)
	a.directory("modules")
	for i, m := range modules {
		a.copy(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), m)
	}
	a.file("init", 0o755, initScript)
	a.directory("vm")
	a.file("vm/run.sh", 0o644, runScript)
	a.file("vm/command.sh", 0o644, []byte(command))
	a.file("vm/parameters", 0o644, []byte(parameters))
	a.file("vm/vm.service", 0o644, service)
	if err := a.close(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkStatic returns an error for a dynamically linked program: the initramfs
// has no loader.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errInstall)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked: %w", program, errInstall)
		}
	}
	return nil
}

// commandScript returns the shell script that executes the command.
func commandScript(o Options) (string, error) {
	if len(o.Command) == 0 {
		return "", errors.New("no command")
	}
	if strings.Contains(o.Command[0], "=") {
		return "", fmt.Errorf("the command %q has a =, which env takes for a variable", o.Command[0])
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return "", err
	}
	env := o.Env
	if env == nil {
		env = os.Environ()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cd %s || exit 127\nexec env -i --", quote(dir))
	for _, word := range slices.Concat(env, o.Command) {
		if strings.IndexByte(word, 0) >= 0 {
			return "", fmt.Errorf("%q has a NUL byte", word)
		}
		b.WriteByte(' ')
		b.WriteString(quote(word))
	}
	b.WriteByte('\n')
	return b.String(), nil
}

func assign(name, value string) string { return name + "=" + quote(value) + "\n" }

// quote returns a word of the shell that means s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// archive writes an initramfs: a cpio archive in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst). It keeps the first
// error, and close returns it.
type archive struct {
	w   *bufio.Writer
	ino int
	err error
}

func newArchive(w io.Writer) *archive { return &archive{w: bufio.NewWriter(w)} }

func (a *archive) directory(name string) { a.entry(name, unix.S_IFDIR|0o755, nil) }

func (a *archive) file(name string, perm int, data []byte) { a.entry(name, unix.S_IFREG|perm, data) }

// copy adds a file of the host as an executable.
func (a *archive) copy(name, source string) {
	data, err := os.ReadFile(source)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(name, 0o755, data)
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	if err := a.w.Flush(); a.err == nil {
		a.err = err
	}
	return a.err
}

func (a *archive) entry(name string, mode int, data []byte) {
	a.ino++
	// Magic; inode, mode, uid, gid, links, mtime, size; device and special
	// device, major and minor; length of the name with its NUL; checksum.
	a.write([]byte("070701"))
	for _, n := range []int{a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		a.write(fmt.Appendf(nil, "%08X", n))
	}
	a.write([]byte(name + "\x00"))
	a.pad(6 + 13*8 + len(name) + 1)
	a.write(data)
	a.pad(len(data))
}

// pad writes zeros after n bytes, up to a multiple of four.
func (a *archive) pad(n int) { a.write(make([]byte, -n&3)) }

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}
