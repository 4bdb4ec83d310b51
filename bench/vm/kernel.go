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

// errInstall says how to install a missing prerequisite.
var errInstall = errors.New("run sudo sh bench/vm/install-deps.sh")

// Kernel is a kernel that a virtual machine can boot.
type Kernel struct {
	// Name is the kernel's short version, such as "6.1".
	Name string

	// Image is the path of the compressed kernel.
	Image string

	// Modules is the directory of its modules, indexed by depmod. Its last
	// element is the kernel's release.
	Modules string
}

// Release is the kernel's uname -r, such as "6.1.0-50-amd64".
func (k Kernel) Release() string { return filepath.Base(k.Modules) }

// Kernels returns the kernels that install-deps.sh unpacked, oldest first. Having
// none is an error. The error is an *OpError.
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
		// A directory whose name is not a version is still being unpacked.
		if _, ok := parseVersion(k.Name); !ok {
			continue
		}
		kernels = append(kernels, k)
	}
	if len(kernels) == 0 {
		return nil, &OpError{Op: "find kernels", Err: fmt.Errorf("no kernel in %s: %w", dir, errInstall)}
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

// moduleFiles returns the files to insert for the named modules, in that order.
// Each file appears once, after its dependencies. Built-in modules have no file.
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
		// depmod lists all dependencies, those without dependencies last.
		for _, dep := range slices.Backward(m.deps) {
			add(dep)
		}
		add(m.file)
	}
	return files, nil
}

// moduleName returns the kernel's name of the module in a file.
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
