package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	module   = "ftpctd"
	repoRoot = "../.."
	internal = "ftpctd/cmd/ftpctd/internal"
)

// A room is a directory of the module and what its packages may import. Any other
// import fails the test: a new arrow between rooms is entered here.
type room struct {
	path string // of the package; the packages below it belong to it as well
	// alone leaves out the packages below: each of them is a room.
	alone bool
	// std are the packages of the standard library that it may import; nil is
	// all of them.
	std []string
	// not are packages of the standard library that it must not import.
	not []string
	// mod are the packages outside the standard library that it may import; one
	// that ends with a slash is all packages below. Nil is all of them.
	mod []string
	// noMod are packages outside the standard library that it must not import,
	// written likewise.
	noMod []string
}

// rooms are in the order of a packet's way, outermost last. A package is in the room
// with the longest matching path.
var rooms = []room{
	{
		// Bytes to meaning: no I/O, no clock, no goroutine.
		path: "ftpctd/ftpparse",
		std: []string{
			"bytes", "cmp", "encoding/binary", "errors", "iter", "math", "math/bits", "net/netip",
			"slices", "strconv", "strings", "sync", "unicode/utf8",
		},
		mod: []string{},
	},
	{
		// Policy and decisions: no socket of its own.
		path: "ftpctd/conntrack",
		not:  []string{"net", "net/http", "net/rpc", "os", "os/exec", "syscall"},
		mod:  []string{"ftpctd/ftpparse", "ftpctd/nfq/packet"},
	},
	{
		// Kernel messages: no FTP.
		path: "ftpctd/conntrack/ctnetlink",
		mod: []string{
			"ftpctd/conntrack", "ftpctd/nfq/nfnetlink", "github.com/mdlayher/netlink/", "golang.org/x/sys/unix",
		},
	},
	{
		// Packets and verdicts: no FTP, no policy.
		path: "ftpctd/nfq",
		mod: []string{
			"github.com/florianl/go-nfqueue/v2/", "github.com/google/gopacket/", "github.com/mdlayher/netlink/",
			"golang.org/x/sys/unix",
		},
	},
	{
		// The bytes of netlink messages: no socket.
		path: "ftpctd/nfq/nfnetlink",
		not:  []string{"net", "os", "syscall"},
		mod:  []string{"golang.org/x/sys/unix"},
	},
	{
		// A queue without a kernel.
		path: "ftpctd/nfq/nfqtest",
		not:  []string{"net", "os", "syscall"},
		mod:  []string{"ftpctd/nfq"},
	},
	{
		// A packet and its headers: no queue, no netlink.
		path: "ftpctd/nfq/packet",
		not:  []string{"net", "os", "syscall"},
		mod:  []string{"github.com/google/gopacket/"},
	},
	{
		// Used by the command, not the other way round.
		path:  "ftpctd/bench",
		noMod: []string{"ftpctd/cmd/"},
	},

	// The command. Its rooms are in the order of their arrows, too: a room imports only
	// rooms above it.
	{
		path: internal + "/capture",
		mod:  []string{},
	},
	{
		path: internal + "/logsink",
		mod:  []string{},
	},
	{
		path: internal + "/notify",
		mod:  []string{"golang.org/x/sys/unix"},
	},
	{
		path: internal + "/event",
		mod:  []string{},
	},
	{
		path: internal + "/report",
		mod:  []string{"ftpctd/conntrack", "ftpctd/ftpparse"},
	},
	{
		// The nftables table: no configuration.
		path: internal + "/firewall",
		mod: []string{
			"ftpctd/conntrack", "ftpctd/conntrack/ctnetlink", "ftpctd/nfq/nfnetlink", "github.com/google/nftables/",
			"golang.org/x/sys/unix",
		},
	},
	{
		// Errors to what an administrator does about them.
		path: internal + "/advice",
		mod:  []string{internal + "/firewall", "ftpctd/conntrack/ctnetlink", "ftpctd/nfq", "golang.org/x/sys/unix"},
	},
	{
		// Words of the file to values of the packages that use them.
		path: internal + "/config",
		mod:  []string{internal + "/firewall", "ftpctd/conntrack", "ftpctd/nfq", "github.com/pelletier/go-toml/v2/"},
	},
	{
		// How announced data connections become RELATED: no packets.
		path: internal + "/admit",
		mod: []string{
			internal + "/config", internal + "/firewall", "ftpctd/conntrack", "ftpctd/conntrack/ctnetlink",
			"golang.org/x/sys/unix",
		},
	},
	{
		// The packet path: no configuration, no nftables.
		path: internal + "/engine",
		mod: []string{
			internal + "/admit", internal + "/event", internal + "/report", "ftpctd/conntrack",
			"ftpctd/conntrack/ctnetlink", "ftpctd/ftpparse", "ftpctd/nfq", "ftpctd/nfq/packet", "golang.org/x/sys/unix",
		},
	},
	{
		// The engine without a kernel.
		path: internal + "/offline",
		mod:  []string{internal + "/admit", internal + "/engine", internal + "/firewall", "ftpctd/conntrack", "ftpctd/nfq/packet"},
	},
	{
		path: internal + "/doctor",
		mod: []string{
			internal + "/admit", internal + "/advice", internal + "/config", internal + "/firewall", "ftpctd/conntrack",
			"ftpctd/conntrack/ctnetlink", "ftpctd/nfq", "github.com/google/nftables/", "golang.org/x/sys/unix",
		},
	},
	{
		path: internal + "/daemon",
		mod: []string{
			internal + "/admit", internal + "/advice", internal + "/config", internal + "/engine", internal + "/firewall", internal + "/notify", "ftpctd/conntrack",
			"ftpctd/conntrack/ctnetlink", "ftpctd/nfq", "golang.org/x/sync/errgroup", "golang.org/x/sys/unix",
		},
	},
	{
		// The only room that knows the lab: for the demo.
		path: internal + "/cli",
		mod: []string{
			"ftpctd/bench/lab/", internal + "/advice", internal + "/capture", internal + "/config", internal + "/daemon", internal + "/doctor",
			internal + "/logsink", internal + "/offline", internal + "/report", "ftpctd/conntrack", "ftpctd/nfq/packet",
			"github.com/spf13/cobra", "golang.org/x/sys/unix",
		},
	},
	{
		path:  "ftpctd/cmd/ftpctd",
		alone: true,
		mod:   []string{internal + "/cli"},
	},
}

// refuses returns why the room must not import a package, or nothing.
func (r room) refuses(imported string) string {
	// A package of the standard library has no dot in its first element.
	first, _, _ := strings.Cut(imported, "/")
	std := first != module && !strings.Contains(first, ".")
	switch {
	case std && r.std != nil && !slices.Contains(r.std, imported):
		return "not in its list of the standard library"
	case std && slices.Contains(r.not, imported):
		return "forbidden"
	case !std && r.mod != nil && !matches(r.mod, imported) && (r.alone || !strings.HasPrefix(imported, r.path+"/")):
		return "not in its list of packages"
	case !std && matches(r.noMod, imported):
		return "forbidden"
	}
	return ""
}

// matches reports whether a package is one of the list.
func matches(list []string, imported string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		dir, below := strings.CutSuffix(entry, "/")
		return imported == dir || below && strings.HasPrefix(imported, entry)
	})
}

// roomOf returns the room of a package.
func roomOf(pkg string) (room, bool) {
	var found room
	for _, r := range rooms {
		mine := matches([]string{r.path + "/"}, pkg) && (!r.alone || pkg == r.path)
		if mine && len(r.path) > len(found.path) {
			found = r
		}
	}
	return found, found.path != ""
}

// A listedPackage is what the go command says about a package.
type listedPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// listPackages returns the packages of the module.
func listPackages(t *testing.T) (packages []listedPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", "./...")
	cmd.Dir = repoRoot
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// TestRooms makes sure that no package imports what its room must not.
func TestRooms(t *testing.T) {
	var entered []string
	for _, p := range listPackages(t) {
		r, ok := roomOf(p.ImportPath)
		if !ok {
			t.Errorf("%s is in no room", p.ImportPath)
			continue
		}
		if len(p.GoFiles) > 0 {
			entered = append(entered, r.path)
		}
		for _, imported := range p.Imports {
			if why := r.refuses(imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
	for _, r := range rooms {
		if !slices.Contains(entered, r.path) {
			t.Errorf("room %s has no package", r.path)
		}
	}
}

// TestRoomRefuses makes sure that TestRooms can fail.
func TestRoomRefuses(t *testing.T) {
	tests := []struct {
		pkg, imported string
		refused       bool
	}{
		{"ftpctd/ftpparse", "net/netip", false},
		{"ftpctd/ftpparse", "net", true},
		{"ftpctd/ftpparse", "time", true},
		{"ftpctd/ftpparse", "os", true},
		{"ftpctd/ftpparse", "ftpctd/conntrack", true},
		{"ftpctd/ftpparse", "github.com/google/gopacket", true},
		{"ftpctd/ftpparse/grammar", "time", true},
		{"ftpctd/ftpparse", "ftpctd/ftpparse/grammar", false},
		{"ftpctd/conntrack", "ftpctd/ftpparse", false},
		{"ftpctd/conntrack", "time", false},
		{"ftpctd/conntrack", "net", true},
		{"ftpctd/conntrack", "syscall", true},
		{"ftpctd/conntrack", "github.com/mdlayher/netlink", true},
		{"ftpctd/conntrack", "ftpctd/nfq", true},
		{"ftpctd/conntrack/ctnetlink", "ftpctd/conntrack", false},
		{"ftpctd/conntrack/ctnetlink", "ftpctd/ftpparse", true},
		{"ftpctd/conntrack/ctnetlink", "github.com/mdlayher/netlink/nlenc", false},
		{"ftpctd/conntrack/ctnetlink", "golang.org/x/sys/unix", false},
		{"ftpctd/conntrack/ctnetlink", "ftpctd/nfq/nfnetlink", false},
		{"ftpctd/conntrack/ctnetlink", "ftpctd/nfq", true},
		{"ftpctd/nfq", "ftpctd/nfq/nfnetlink", false},
		{"ftpctd/nfq/nfnetlink", "github.com/mdlayher/netlink", true},
		{"ftpctd/nfq", "github.com/google/gopacket/layers", false},
		{"ftpctd/nfq", "ftpctd/conntrack", true},
		{"ftpctd/nfq", "ftpctd/ftpparse", true},
		{"ftpctd/bench/lab", "github.com/vishvananda/netns", false},
		{"ftpctd/bench/lab", internal + "/config", true},
		{"ftpctd/cmd/ftpctd", internal + "/cli", false},
		{"ftpctd/cmd/ftpctd", internal + "/daemon", true},
		{internal + "/cli", "ftpctd/bench/lab/miniftp", false},
		{internal + "/daemon", internal + "/engine", false},
		{internal + "/daemon", internal + "/cli", true},
		{internal + "/engine", internal + "/daemon", true},
		{internal + "/engine", "ftpctd/bench/lab", true},
		{internal + "/firewall", internal + "/config", true},
		{internal + "/admit", "ftpctd/conntrack/ctnetlink", false},
		{internal + "/admit", "ftpctd/nfq", true},
		{internal + "/engine", internal + "/firewall", true},
	}
	for _, tt := range tests {
		t.Run(tt.pkg+" "+tt.imported, func(t *testing.T) {
			r, ok := roomOf(tt.pkg)
			if !ok {
				t.Fatal("in no room")
			}
			if why := r.refuses(tt.imported); (why != "") != tt.refused {
				t.Errorf("refused: %q, want %v", why, tt.refused)
			}
		})
	}
	for _, pkg := range []string{"ftpctd/util", internal + "/util"} {
		if r, ok := roomOf(pkg); ok {
			t.Errorf("%s is in room %s, want none", pkg, r.path)
		}
	}
}

// maxFunctionLines is the length of the longest function, from func to its brace.
const maxFunctionLines = 60

// TestFunctionLength makes sure that every function fits on a screen, those of tests
// aside.
func TestFunctionLength(t *testing.T) {
	functions := 0
	for _, p := range listPackages(t) {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if !ok {
					continue
				}
				functions++
				lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1
				if lines > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", fset.Position(f.Pos()), p.ImportPath+"."+f.Name.Name, lines, maxFunctionLines)
				}
			}
		}
	}
	if functions == 0 {
		t.Error("no function in the module")
	}
}

// TestParserIsPure makes sure that ftpparse starts no goroutine and makes no
// channel. (It has no clock and no I/O because it imports none.)
func TestParserIsPure(t *testing.T) {
	files := 0
	for _, p := range listPackages(t) {
		if r, _ := roomOf(p.ImportPath); r.path != "ftpctd/ftpparse" {
			continue
		}
		for _, name := range p.GoFiles {
			files++
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: a goroutine", fset.Position(n.Pos()))
				case *ast.ChanType:
					t.Errorf("%s: a channel", fset.Position(n.Pos()))
				}
				return true
			})
		}
	}
	if files == 0 {
		t.Error("no file in ftpparse")
	}
}

// TestTopLevel makes sure that the top level of the repository has what it is
// to have, dot-files and what .gitignore names aside.
func TestTopLevel(t *testing.T) {
	want := []string{"Makefile", "README.md", "bench", "cmd", "conntrack", "ftpparse", "go.mod", "go.sum", "nfq"}
	ignored := ignorePatterns(t)
	entries, err := os.ReadDir(repoRoot)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.ContainsFunc(ignored, func(pattern string) bool {
			match, err := path.Match(pattern, e.Name())
			return match || err != nil
		}) {
			got = append(got, e.Name())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("top level (-want +got):\n%s", diff)
	}
}

// ignorePatterns returns the patterns of .gitignore that can match at the top.
func ignorePatterns(t *testing.T) (patterns []string) {
	t.Helper()
	f, err := os.Open(filepath.Join(repoRoot, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			patterns = append(patterns, strings.Trim(line, "/"))
		}
	}
	return patterns
}
