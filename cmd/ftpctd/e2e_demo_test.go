package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// marker is in the environment of a demo and of all processes that it starts.
func marker(t *testing.T) string { return fmt.Sprintf("FTPCTD_TEST=%s %d", t.Name(), os.Getpid()) }

// markedProcesses lists the processes that have the marker of the test.
func markedProcesses(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		// Processes come and go meanwhile.
		if environ, err := os.ReadFile(path); err == nil && slices.Contains(strings.Split(string(environ), "\x00"), marker(t)) {
			found = append(found, path)
		}
	}
	return found
}

// linkNames lists the links of a host.
func linkNames(t *testing.T, h *lab.Host) []string {
	t.Helper()
	var names []string
	err := h.Do(func() error {
		list, err := netlink.LinkList()
		for _, link := range list {
			names = append(names, link.Attrs().Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDemo runs the demo in a host of a lab, which must be unchanged afterwards.
func TestDemo(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	before := linkNames(t, l.Client)
	nothingLeft := func(t *testing.T) {
		t.Helper()
		if diff := cmp.Diff(before, linkNames(t, l.Client)); diff != "" {
			t.Errorf("links (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff([]string(nil), traces(t, l.Client)); diff != "" {
			t.Errorf("left behind (-want +got):\n%s", diff)
		}
		// Its namespaces have no names: they are gone with the last process.
		labtest.Eventually(t, "no process is left", func() bool { return len(markedProcesses(t)) == 0 })
	}
	t.Run("rows", func(t *testing.T) {
		t.Parallel()
		var stdout, stderr bytes.Buffer
		cmd := program("demo", "--json")
		cmd.Env = append(cmd.Env, marker(t))
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := l.Client.Run(cmd); err != nil {
			t.Errorf("demo: %v\n%s", err, &stderr)
		}
		const want = `{"family":"ipv4","mode":"active","via":"PORT","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
{"family":"ipv4","mode":"active","via":"EPRT","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
{"family":"ipv4","mode":"passive","via":"227","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
{"family":"ipv4","mode":"passive","via":"229","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
{"family":"ipv6","mode":"active","via":"EPRT","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
{"family":"ipv6","mode":"passive","via":"229","bytes":2097152,"related":2,"without":"blocked","with":"ok"}
`
		if diff := cmp.Diff(want, stdout.String()); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
		if stderr.Len() != 0 {
			t.Errorf("on stderr: %s", &stderr)
		}
		nothingLeft(t)
	})
	for _, signal := range []os.Signal{unix.SIGINT, unix.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			cmd := program("demo")
			cmd.Env = append(cmd.Env, marker(t))
			p, err := l.Client.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			labtest.Eventually(t, "its daemon runs", func() bool { return len(markedProcesses(t)) == 2 })
			if err := p.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = p.Wait() // it may have come to its end just before
			nothingLeft(t)
		})
	}
}
