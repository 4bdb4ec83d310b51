// Package corpora finds the captures and the test vectors of other projects that
// tests read. They are no part of this one: a clone comes without them.
package corpora

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Env names the environment variable with their directory. Without it, that is the
// directory "shared" beside the project's.
const Env = "FTPCTD_CORPORA"

// Path returns the path of a file or a directory among them. If there are none, the
// test is skipped, on CI as well; it fails if Env says that there are, or if this
// one is missing.
func Path(t testing.TB, elements ...string) string {
	t.Helper()
	dir := os.Getenv(Env)
	if dir == "" {
		dir = filepath.Join(filepath.Dir(root(t)), "shared")
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			t.Skipf("no captures and vectors of other projects in %s: set %s to the directory that has them", dir, Env)
		}
	}
	path := filepath.Join(dir, filepath.Join(elements...))
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// root returns the directory of the project that the test is of.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run in the project: there is no go.mod above")
		}
	}
}
