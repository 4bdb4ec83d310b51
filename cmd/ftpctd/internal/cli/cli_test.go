package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/config"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		running bool
		want    int
	}{
		{"any error", errors.New("no luck"), true, exitFailure},
		{"before the subcommand", errors.New("unknown flag"), false, exitUsage},
		{"no permission", fmt.Errorf("queue 21: %w", syscall.EPERM), true, exitPermission},
		{"a code of its own", &exitError{Code: exitProblems}, true, exitProblems},
		{"a code of its own, wrapped", fmt.Errorf("at start: %w", &exitError{exitConfig, fs.ErrPermission}), true, exitConfig},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := classify(tt.err, tt.running); got.Code != tt.want {
				t.Errorf("exit code %d, want %d", got.Code, tt.want)
			}
		})
	}
}

func TestConfigFlag(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "ftpctd.toml")
	load := func(args ...string) (c config.Config, absent bool, err error) {
		cmd := &cobra.Command{}
		file := addConfigFlag(cmd)
		file.path = missing
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		c, err = file.load()
		return c, file.absent, err
	}

	got, absent, err := load()
	if err != nil || !absent {
		t.Fatalf("no file at the default path: absent %v, error %v", absent, err)
	}
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Errorf("no file at the default path (-want +got):\n%s", diff)
	}

	_, _, err = load("-c", missing)
	if exit, ok := errors.AsType[*exitError](err); !ok || exit.Code != exitConfig || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file that was named: %v, want exit code %d and fs.ErrNotExist", err, exitConfig)
	}
}

func TestLogger(t *testing.T) {
	const stamp = `time=\d{4}-\d\d-\d\dT\S+ `
	tests := []struct {
		name    string
		journal bool
		log     config.Log
		want    string
	}{
		{"text", false, config.Log{Format: config.LogText}, "^" + stamp + "level=INFO msg=ready g.time=1\n$"},
		{"text under the journal", true, config.Log{Format: config.LogText}, "^level=INFO msg=ready g.time=1\n$"},
		{"JSON", false, config.Log{Format: config.LogJSON}, `^{"time":"[^"]+","level":"INFO","msg":"ready","g":{"time":1}}\n$`},
		{"JSON under the journal", true, config.Log{Format: config.LogJSON}, `^{"level":"INFO","msg":"ready","g":{"time":1}}\n$`},
		{"below the level", false, config.Log{Format: config.LogText, Level: slog.LevelWarn}, "^$"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			env{stderr: &stderr, journal: tt.journal}.logger(tt.log.Format, tt.log.Level).WithGroup("g").Info("ready", "time", 1)
			if !regexp.MustCompile(tt.want).Match(stderr.Bytes()) {
				t.Errorf("log %q, want a match of %q", &stderr, tt.want)
			}
		})
	}
}
