package vm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKernels(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)

	if _, err := Kernels(); !errors.Is(err, errInstall) || !strings.Contains(err.Error(), cache) {
		t.Errorf("an empty cache: got error %v, want one that names it and says how to fill it", err)
	}

	kernels := filepath.Join(cache, "ftpctd-test", "kernels")
	for _, file := range []string{
		"6.12/boot/vmlinuz-6.12.107+deb13-amd64",
		"6.1/boot/vmlinuz-6.1.0-50-amd64",
		"6.1/boot/config-6.1.0-50-amd64",
		"6.18.new/boot/vmlinuz-6.18-amd64",
	} {
		write(t, filepath.Join(kernels, file), "")
	}
	got, err := Kernels()
	if err != nil {
		t.Fatal(err)
	}
	want := []Kernel{
		{"6.1", filepath.Join(kernels, "6.1/boot/vmlinuz-6.1.0-50-amd64"), filepath.Join(kernels, "6.1/lib/modules/6.1.0-50-amd64")},
		{"6.12", filepath.Join(kernels, "6.12/boot/vmlinuz-6.12.107+deb13-amd64"), filepath.Join(kernels, "6.12/lib/modules/6.12.107+deb13-amd64")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kernels (-want +got):\n%s", diff)
	}
	if got, want := got[0].Release(), "6.1.0-50-amd64"; got != want {
		t.Errorf("release: got %s, want %s", got, want)
	}
}

func TestModuleFiles(t *testing.T) {
	k := Kernel{Name: "6.1", Modules: t.TempDir()}
	write(t, filepath.Join(k.Modules, "modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/crc-itu-t.ko\n")
	write(t, filepath.Join(k.Modules, "modules.dep"), strings.Join([]string{
		"kernel/net/9p/9pnet.ko.xz:",
		"kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/virtio/virtio.ko.xz",
		"kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz",
		"kernel/virtio/virtio.ko.xz:",
		"kernel/fs/netfs/netfs.ko.xz:",
		"kernel/net/nf-queue.ko:",
	}, "\n"))

	for name, tt := range map[string]struct{ names, want []string }{
		"no module":                   {nil, nil},
		"dependencies first":          {[]string{"9pnet_virtio"}, []string{"virtio/virtio.ko.xz", "net/9p/9pnet.ko.xz", "net/9p/9pnet_virtio.ko.xz"}},
		"a dependency once":           {[]string{"9p", "9pnet_virtio"}, []string{"fs/netfs/netfs.ko.xz", "net/9p/9pnet.ko.xz", "fs/9p/9p.ko.xz", "virtio/virtio.ko.xz", "net/9p/9pnet_virtio.ko.xz"}},
		"built in":                    {[]string{"virtio_pci", "crc_itu_t"}, nil},
		"dashes are underscores":      {[]string{"nf_queue"}, []string{"net/nf-queue.ko"}},
		"a module and its dependency": {[]string{"9pnet", "9p"}, []string{"net/9p/9pnet.ko.xz", "fs/netfs/netfs.ko.xz", "fs/9p/9p.ko.xz"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := k.moduleFiles(tt.names)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, file := range tt.want {
				want = append(want, filepath.Join(k.Modules, "kernel", file))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}

	if _, err := k.moduleFiles([]string{"no_such"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no_such") {
		t.Errorf("an unknown module: got error %v, want one that names it", err)
	}
	if _, err := (Kernel{Modules: "/nonexistent"}).moduleFiles(nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no index: got error %v, want %v", err, fs.ErrNotExist)
	}
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
