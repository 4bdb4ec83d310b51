package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/lab/labtest"
)

func readREADME(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// reasonsInSource returns the constants of type Reason in all packages, sorted.
func reasonsInSource(t *testing.T) (reasons []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !isReason(spec.Type) {
				return true
			}
			for _, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					word, err := strconv.Unquote(literal.Value)
					if err != nil {
						t.Errorf("%s: %v", path, err)
					}
					reasons = append(reasons, word)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(reasons)
	return slices.Compact(reasons)
}

// isReason reports whether an expression names the type Reason of any package.
func isReason(e ast.Expr) bool {
	if selector, ok := e.(*ast.SelectorExpr); ok {
		e = selector.Sel
	}
	name, ok := e.(*ast.Ident)
	return ok && name.Name == "Reason"
}

// TestReadmeReasons checks that the tables of README's section on reasons have exactly
// the words that the log and replay can print.
func TestReadmeReasons(t *testing.T) {
	_, section, ok := strings.Cut(readREADME(t), "\n## Reasons\n")
	if !ok {
		t.Fatal("README has no section on reasons")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for line := range strings.Lines(section) {
		row, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		column, _, _ := strings.Cut(row, "` |")
		got = append(got, strings.Split(column, "`, `")...)
	}
	slices.Sort(got)
	want := reasonsInSource(t)
	if len(want) < 30 {
		t.Errorf("only %d reasons in the source: %q", len(want), want)
	}
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("README's reasons (-source +README):\n%s", diff)
	}
}

// TestReadmeRules loads each of README's rulesets into an empty network namespace.
func TestReadmeRules(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		labtest.Unmet(t, "apt-get install nftables: "+err.Error())
	}
	blocks := regexp.MustCompile("(?s)```nft\n(.*?)```").FindAllStringSubmatch(readREADME(t), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d rulesets, want one for a router and one for a host", len(blocks))
	}
	for i, hook := range []string{"forward", "input"} {
		t.Run(hook, func(t *testing.T) {
			labtest.EnterNetns(t)
			rules := blocks[i][1]
			if !strings.Contains(rules, "hook "+hook) {
				t.Errorf("no chain in the hook %s:\n%s", hook, rules)
			}
			for _, args := range [][]string{{"-c", "-f", "-"}, {"-f", "-"}} {
				load := exec.Command("nft", args...)
				load.Stdin = strings.NewReader(rules)
				if out, err := load.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", load, err, out)
				}
			}
			out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, rule := range []string{"policy drop", "ct state established,related accept", "tcp dport 21 accept"} {
				if !strings.Contains(string(out), rule) {
					t.Errorf("the loaded ruleset lacks %q:\n%s", rule, out)
				}
			}
		})
	}
}

// TestDocumentLinks checks that the relative links of the documents lead to files.
func TestDocumentLinks(t *testing.T) {
	for _, document := range []string{"README.md", "bench/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"} {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(document), link[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}
