package main_test

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab/labtest"
)

const root = "../.." // of the repository

// maxExposure is the score of systemd-analyze that the unit may have.
const maxExposure = 1.6

func TestUnitExposure(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		labtest.Unmet(t, "apt-get install systemd: "+err.Error())
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "dist/ftpctd.service").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := regexp.MustCompile(`Overall exposure level for ftpctd.service: ([\d.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level:\n%s", out)
	}
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > maxExposure {
		t.Errorf("exposure %s, want %v at most:\n%s", m[1], maxExposure, out)
	}
}

// makeTarget runs a target of the Makefile for a directory.
func makeTarget(t *testing.T, target, destdir, binary string) {
	t.Helper()
	cmd := exec.Command("make", "-C", root, target, "DESTDIR="+destdir, "PREFIX=/opt/ftp", "BIN="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// tree lists what is below a directory, with its permissions.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[name] = info.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBuild checks that make build makes a static program, with the version it is
// given and without this machine's paths.
func TestBuild(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		labtest.Unmet(t, "apt-get install make: "+err.Error())
	}
	binary := filepath.Join(t.TempDir(), "ftpctd")
	cmd := exec.Command("make", "-C", root, "build", "VERSION=v1.2.3-test", "BIN="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program has a segment %v: it is dynamically linked", p.Type)
		}
	}
	out, err := exec.Command(binary, "version").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("ftpctd v1.2.3-test go")) {
		t.Errorf("version: %q, %v", out, err)
	}
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(dir)) {
		t.Errorf("the program contains the path %s", dir)
	}
}

func TestInstall(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		labtest.Unmet(t, "apt-get install make: "+err.Error())
	}
	const (
		config  = "etc/ftpctd/ftpctd.toml"
		other   = "opt/ftp/sbin/other"
		program = "opt/ftp/sbin/ftpctd"
		unit    = "opt/ftp/lib/systemd/system/ftpctd.service"
	)
	binary := filepath.Join(t.TempDir(), "ftpctd")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustWrite(t, at(other), "of somebody else")
	before := tree(t, dir)

	makeTarget(t, "install", dir, binary)
	want := map[string]string{
		other:                                    "-rw-------",
		program:                                  "-rwxr-xr-x",
		unit:                                     "-rw-r--r--",
		"opt/ftp/lib/modules-load.d/ftpctd.conf": "-rw-r--r--",
		config:                                   "-rw-r--r--",
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("installed (-want +got):\n%s", diff)
	}
	if out, err := exec.Command(at(program), "check", "-c", at(config)).CombinedOutput(); err != nil {
		t.Errorf("the installed program and configuration: %v\n%s", err, out)
	}
	text, err := os.ReadFile(at(unit))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ExecStartPre=/opt/ftp/sbin/ftpctd check", "ExecStart=/opt/ftp/sbin/ftpctd run"} {
		if !regexp.MustCompile("(?m)^" + line + "$").Match(text) {
			t.Errorf("the unit lacks %q", line)
		}
	}
	makeTarget(t, "uninstall", dir, binary)
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("after uninstall (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(at("etc/ftpctd")); err == nil {
		t.Error("after uninstall the configuration's directory is still there")
	}

	mustWrite(t, at(config), "ports = [2121]\n")
	before = tree(t, dir)
	makeTarget(t, "install", dir, binary)
	makeTarget(t, "uninstall", dir, binary)
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("with a configuration of one's own (-want +got):\n%s", diff)
	}
	if text, err := os.ReadFile(at(config)); err != nil || string(text) != "ports = [2121]\n" {
		t.Errorf("the configuration became %q, error %v", text, err)
	}
}
