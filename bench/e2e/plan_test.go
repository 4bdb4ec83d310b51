package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePlan(t *testing.T) {
	config := filepath.Join(t.TempDir(), "new.toml")
	if err := os.WriteFile(config, []byte("admit = \"auto\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := parsePlan([]string{
		"-variants", "kernel,old,new,expect,conntrackd", "-against", "old,none", "-program", "old=/a", "-program", "new=/b",
		"-config", "new=" + config, "-loads", "noop,bulk", "-conns", "2,3", "-size", "2048",
	}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	want := []variant{
		{name: "kernel", title: "nf_conntrack_ftp", helper: "ftp"},
		{name: "old", title: "old", ftpctd: true, program: "/a"},
		{name: "new", title: "new", ftpctd: true, program: "/b", config: "admit = \"auto\"\n"},
		{name: "expect", title: "ftpctd, expect", ftpctd: true, config: "admit = \"expect\"\n"},
		{name: "conntrackd", title: "conntrackd", helper: "ftp", conntrackd: true},
	}
	if diff := cmp.Diff(want, p.variants, cmp.AllowUnexported(variant{})); diff != "" {
		t.Errorf("variants (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"old"}, p.against); diff != "" {
		t.Errorf("against (-want +got):\n%s", diff)
	}
	cycles, transfer := p.keys()
	if diff := cmp.Diff([]key{{"noop", 2}, {"noop", 3}}, cycles, cmp.AllowUnexported(key{})); diff != "" {
		t.Errorf("cycles (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]key{{"bulk", 1}}, transfer, cmp.AllowUnexported(key{})); diff != "" {
		t.Errorf("transfer (-want +got):\n%s", diff)
	}
}

// TestUsage checks that wrong arguments are rejected with an error that names the
// problem.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		says string
	}{
		{"-variants conntrack", `unknown variant "conntrack"`},
		{"-program new=/a", "new is not one of the -variants"},
		{"-program kernel=/a", "kernel is not one of the -variants that run ftpctd"},
		{"-config expect=/no/such/file", "/no/such/file"},
		{"-config expect", "want NAME=FILE"},
		{"-loads pasv,list", `unknown load "list"`},
		{"-conns 1,none", `"none" is not a number`},
		{"-conns 0", `"0" is not a number`},
		{"-rounds 0", "must be positive"},
		{"-time -1s", "must be positive"},
		{"-idle 1000000", "-idle must be between"},
		{"-variants expect -chart c.svg", "-against"},
		{"-loads bulk -chart c.svg", "-loads"},
		{"-summary /no/such/file", "/no/such/file"},
		{"-report /no/such/file", "/no/such/file"},
		{"-summary plan.go", "it lacks the lines"},
		{"-report plan.go", "it lacks the lines"},
		{"-frobnicate", "frobnicate"},
		{"pasv", `unexpected argument "pasv"`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(t.Context(), strings.Fields(tt.args), t.Output(), &stderr); code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			if !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("it says %q, want %q in it", &stderr, tt.says)
			}
		})
	}
}
