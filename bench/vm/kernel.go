package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// errInstall is the way to get whatever is missing.
var errInstall = errors.New("run sudo sh bench/vm/install-deps.sh")

// Kernel is a kernel that a virtual machine can boot.
type Kernel struct {
	// Name is the version that the kernel is known by, such as "6.1".
	Name string

	// Image is the path of the compressed kernel.
	Image string

	// Modules is the directory of its modules, which depmod has indexed. Its
	// last element is what uname -r says under this kernel.
	Modules string
}

// Release is what uname -r says under this kernel, such as "6.1.0-50-amd64".
func (k Kernel) Release() string { return filepath.Base(k.Modules) }

// Kernels returns the kernels that install-deps.sh has unpacked, the oldest
// first. It is an error if there is none. The error is an *OpError.
func Kernels() ([]Kernel, error) {
	dir := filepath.Join(cacheHome(), "ftpctd-test", "kernels")
	images, err := filepath.Glob(filepath.Join(dir, "*", "boot", "vmlinuz-*"))
	if err != nil {
		return nil, &OpError{Op: "find kernels", Err: err}
	}
	var kernels []Kernel
	for _, image := range images {
		root := filepath.Dir(filepath.Dir(image))
		k := Kernel{
			Name:    filepath.Base(root),
			Image:   image,
			Modules: filepath.Join(root, "lib", "modules", strings.TrimPrefix(filepath.Base(image), "vmlinuz-")),
		}
		// Unpacking may be under way, in a directory that is no version.
		if _, ok := parseVersion(k.Name); !ok {
			continue
		}
		kernels = append(kernels, k)
	}
	if len(kernels) == 0 {
		return nil, &OpError{Op: "find kernels", Err: fmt.Errorf("there is none in %s: %w", dir, errInstall)}
	}
	slices.SortFunc(kernels, func(a, b Kernel) int {
		av, _ := parseVersion(a.Name)
		bv, _ := parseVersion(b.Name)
		return slices.Compare(av, bv)
	})
	return kernels, nil
}

// cacheHome is the directory of install-deps.sh's cache.
func cacheHome() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return dir
	}
	return "/var/cache"
}

// parseVersion splits a version such as "6.12" into its numbers.
func parseVersion(s string) ([]int, bool) {
	var version []int
	for f := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, false
		}
		version = append(version, n)
	}
	return version, true
}

// moduleFiles returns the files that must be inserted to have the named
// modules, in that order. Each file is there once, after those that it depends
// on. A module that is built into the kernel has no file.
func (k Kernel) moduleFiles(names []string) ([]string, error) {
	builtin := make(map[string]bool)
	err := readLines(filepath.Join(k.Modules, "modules.builtin"), func(line string) {
		builtin[moduleName(line)] = true
	})
	if err != nil {
		return nil, err
	}
	type module struct {
		file string
		deps []string
	}
	modules := make(map[string]module)
	err = readLines(filepath.Join(k.Modules, "modules.dep"), func(line string) {
		if file, deps, ok := strings.Cut(line, ":"); ok {
			modules[moduleName(file)] = module{file, strings.Fields(deps)}
		}
	})
	if err != nil {
		return nil, err
	}

	var files []string
	add := func(file string) {
		file = filepath.Join(k.Modules, file)
		if !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	for _, name := range names {
		if builtin[name] {
			continue
		}
		m, ok := modules[name]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %s: %w", name, fs.ErrNotExist)
		}
		// depmod writes all dependencies, the ones that need nothing last.
		for _, dep := range slices.Backward(m.deps) {
			add(dep)
		}
		add(m.file)
	}
	return files, nil
}

// moduleName is the name by which the kernel knows the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readLines(file string, line func(string)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		line(s.Text())
	}
	return s.Err()
}
