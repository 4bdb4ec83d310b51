// Package corpora finds the captures and test vectors of other projects that tests
// read. They are not part of this repository.
package corpora

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Env is the environment variable that names their directory. The default is the
// directory "shared" next to the repository.
const Env = "FTPCTD_CORPORA"

// Path returns the path of a file or directory in that directory. Without the default
// directory the test is skipped, on CI as well. It fails if the directory that Env
// names, or the file, is missing.
func Path(t testing.TB, elements ...string) string {
	t.Helper()
	dir := os.Getenv(Env)
	if dir == "" {
		dir = filepath.Join(filepath.Dir(root(t)), "shared")
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			t.Skipf("no captures and test vectors of other projects in %s: set %s to their directory", dir, Env)
		}
	}
	path := filepath.Join(dir, filepath.Join(elements...))
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// root returns the directory of the repository.
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
			t.Fatal("not in the repository: no go.mod in any parent directory")
		}
	}
}
