package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/config"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ftpctd": main})
}

// TestScripts runs the command lines of testdata/script. A script compares an
// exit code with "exits CODE ftpctd ARG...".
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			dist, err := filepath.Abs("dist")
			env.Setenv("DIST", dist)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a program and fails unless it ends with the exit code given.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = fmt.Sprint(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

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
