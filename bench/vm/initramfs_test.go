package vm

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab/labtest"
)

// The words of a command reach it through two shells unchanged.
func TestCommandScript(t *testing.T) {
	dir := t.TempDir()
	words := []string{"", " ", "it's", `back\slash`, "$HOME `id` $(id)", "new\nline", "-n", "K=V", "ü\xff"}
	script, err := commandScript(Options{
		Command: append([]string{"sh", "-c", `pwd; echo "$X|$HOME|"; printf '%s\0' "$@"`, "sh"}, words...),
		Dir:     dir,
		Env:     []string{"PATH=" + os.Getenv("PATH"), "X=it's\ntwo"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	want := dir + "\nit's\ntwo||\n" + strings.Join(words, "\x00") + "\x00"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("words (-want +got):\n%s", diff)
	}
}

func TestCommandScriptExitCode(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		want int
	}{
		"success":                  {Options{Command: []string{"true"}}, 0},
		"the command's own":        {Options{Command: []string{"sh", "-c", "exit 42"}}, 42},
		"no such program":          {Options{Command: []string{"no-such-program"}}, 127},
		"no program":               {Options{Command: []string{"/dev/null"}}, 126},
		"no such directory":        {Options{Command: []string{"true"}, Dir: "/nonexistent"}, 127},
		"an option-like program":   {Options{Command: []string{"-x"}}, 127},
		"without the environment":  {Options{Command: []string{"sh", "-c", `[ -z "$FTPCTD_TEST" ]`}, Env: []string{}}, 0},
		"with the caller's":        {Options{Command: []string{"sh", "-c", `[ "$FTPCTD_TEST" = "a b" ]`}}, 0},
		"with another environment": {Options{Command: []string{"/bin/sh", "-c", `[ "$FTPCTD_TEST" = c ]`}, Env: []string{"FTPCTD_TEST=c"}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("FTPCTD_TEST", "a b")
			script, err := commandScript(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", script)
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("exit code %d, want %d; it said: %s", got, tt.want, out)
			}
		})
	}
}

func TestCommandScriptRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no command":         {},
		"a NUL byte":         {Command: []string{"echo", "a\x00b"}},
		"a NUL byte in env":  {Command: []string{"echo"}, Env: []string{"A=a\x00b"}},
		"a variable's shape": {Command: []string{"A=1"}},
	} {
		if script, err := commandScript(o); err == nil {
			t.Errorf("%s: got %q, want an error", name, script)
		}
	}
}

// Entries are padded to four bytes: names and contents of every length.
func TestArchive(t *testing.T) {
	if _, err := os.Stat(busybox); err != nil {
		labtest.Unmet(t, err.Error())
	}
	var b bytes.Buffer
	a := newArchive(&b)
	a.directory("d")
	files := map[string]string{"empty": ""}
	a.file("empty", 0o644, nil)
	for n := range 9 {
		name, data := "d/"+strings.Repeat("n", n+1), strings.Repeat("x", n)
		files[name] = data
		a.file(name, 0o644, []byte(data))
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := make(map[string]string)
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		got[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestArchiveMissingFile(t *testing.T) {
	a := newArchive(&bytes.Buffer{})
	a.copy("f", "/nonexistent")
	a.file("g", 0o644, nil)
	if err := a.close(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, fs.ErrNotExist)
	}
}

func TestCheckStatic(t *testing.T) {
	sh, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"missing": "/nonexistent", "dynamic": sh} {
		if err := checkStatic(program); !errors.Is(err, errInstall) || !strings.Contains(err.Error(), program) {
			t.Errorf("%s: got error %v, want one that names it and says how to get it", name, err)
		}
	}
}
