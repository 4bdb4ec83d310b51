package corpora

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// ended is a testing.TB that records how its test ended.
type ended struct {
	testing.TB
	how string
}

// Helper implements testing.TB.
func (*ended) Helper() {}

// Skipf implements testing.TB.
func (e *ended) Skipf(string, ...any) { e.end("skipped") }

// Fatal implements testing.TB.
func (e *ended) Fatal(...any) { e.end("failed") }

func (e *ended) end(how string) {
	e.how = how
	runtime.Goexit()
}

func TestPath(t *testing.T) {
	for _, tt := range []struct {
		name  string
		env   string   // relative to the parent directory of the repository
		there []string // existing files, likewise
		want  string   // likewise
		how   string   // the test ended, if there is no path
	}{
		{name: "beside the project", there: []string{"shared/vectors/a"}, want: "shared/vectors/a"},
		{name: "nothing beside the project", how: "skipped"},
		{name: "not among those beside the project", there: []string{"shared/vectors/b"}, how: "failed"},
		{name: "named", env: "c", there: []string{"c/vectors/a", "shared/vectors/a"}, want: "c/vectors/a"},
		{name: "nothing where it is named", env: "c", there: []string{"shared/vectors/a"}, how: "failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(path string) string {
				if path == "" {
					return ""
				}
				return filepath.Join(dir, filepath.FromSlash(path))
			}
			for _, path := range append([]string{"project/go.mod", "project/room/x"}, tt.there...) {
				if err := os.MkdirAll(filepath.Dir(at(path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at(path), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(at("project/room"))
			t.Setenv(Env, at(tt.env))

			tb, got := &ended{TB: t}, ""
			done := make(chan struct{})
			go func() {
				defer close(done)
				got = Path(tb, "vectors", "a")
			}()
			<-done
			if want := at(tt.want); got != want || tb.how != tt.how {
				t.Errorf("path %q, ended %q; want %q, %q", got, tb.how, want, tt.how)
			}
		})
	}
}
