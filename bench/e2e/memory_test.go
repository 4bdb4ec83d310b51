package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

func TestWithConnections(t *testing.T) {
	limits := func(others ...any) map[string]any {
		m := map[string]any{"connections": int64(100_000)}
		for i := 0; i < len(others); i += 2 {
			m[others[i].(string)] = others[i+1]
		}
		return m
	}
	for _, tt := range []struct {
		name, config string
		want         map[string]any
	}{
		{"empty", "", map[string]any{"limits": limits()}},
		{"another key", "admit = \"expect\"\n", map[string]any{"admit": "expect", "limits": limits()}},
		{"another table last", "[queue]\nnum = 3\n", map[string]any{"queue": map[string]any{"num": int64(3)}, "limits": limits()}},
		{"another limit", "[limits]\nothers = 5\n", map[string]any{"limits": limits("others", int64(5))}},
		{"the limit", "[limits]\nconnections = 7\n", map[string]any{"limits": limits()}},
		{"the limit, dotted", "limits.connections = 7\n", map[string]any{"limits": limits()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, err := withConnections(tt.config, 100_000)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := toml.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := withConnections("limits = [\n", 1); err == nil {
		t.Error("invalid TOML was accepted")
	}
}

// TestCheckTable checks that a table that is too small is an error that says how to
// fix it.
func TestCheckTable(t *testing.T) {
	for _, tt := range []struct{ name, text, says string }{
		{"large enough", "100000\n", ""},
		{"without a limit", "0\n", ""},
		{"too small", "65536\n", "sysctl -w net.netfilter.nf_conntrack_max=100000"},
		{"not a number", "many\n", tableFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkTable([]byte(tt.text), 100_000)
			if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one with %q", err, tt.says)
			}
		})
	}
}

func TestQueued(t *testing.T) {
	waiting, lost, err := queued([]byte("   21   4711     3 2 65531     0     0       17  1\n   22   4712     4 2 65531     1     2       17  1\n"))
	if waiting != 7 || lost != 3 || err != nil {
		t.Errorf("got %d waiting, %d lost, %v; want 7, 3, nil", waiting, lost, err)
	}
	if _, _, err := queued([]byte("21 4711\n")); err == nil {
		t.Error("half a line was accepted")
	}
}
