package firewall

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"ftpctd/bench/lab/labtest"
)

// dataHooks returns the base chains ahead of conntrack.
func dataHooks(t *testing.T) (names []string) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Priority == priorityData {
			names = append(names, c.Name)
		}
	}
	return names
}

// deleteDataHooks deletes the base chains ahead of conntrack.
func deleteDataHooks(t *testing.T) {
	t.Helper()
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range dataHooks(t) {
		nft.DelChain(&nftables.Chain{Table: newTable(tableName), Name: name})
	}
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestHooks makes sure that the base chains ahead of conntrack exist only while there are
// elements for them to find, and for a while longer.
func TestHooks(t *testing.T) {
	expected := Change{Src: addr("192.0.2.1"), Dst: addr("203.0.113.1"), Port: 31240, Timeout: 5 * time.Minute}
	inTLS := Change{Src: addr("fd00::2"), Dst: addr("fd00::1"), Timeout: 24 * time.Hour}
	without := func(c Change) Change {
		c.Timeout = 0
		return c
	}
	// step is what happens, after a time, and whether the hooks exist then.
	type step struct {
		after   time.Duration
		apply   []Change // nothing: DeleteIdleHooks is called
		restore bool     // somebody removes the table, and it is restored
		reload  bool     // somebody loads the table as it was without hooks, and it is restored
		exist   bool
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"nothing is expected", []step{{after: time.Hour}}},
		{"what is not there is withdrawn", []step{{apply: []Change{without(expected)}}}},
		{"an entry is expected, and expires", []step{
			{apply: []Change{expected}, exist: true},
			{after: 4 * time.Minute, exist: true},
			{after: time.Minute, exist: true}, // the element goes now
			{after: idleFor - time.Second, exist: true},
			{after: time.Second},
			{apply: []Change{expected}, exist: true},
		}},
		{"an entry is expected, and withdrawn", []step{
			{apply: []Change{expected}, exist: true},
			{after: time.Second, apply: []Change{without(expected)}, exist: true},
			{after: idleFor, exist: true},
			{after: idleFor},
		}},
		{"entries are expected and withdrawn all the time", []step{
			{apply: []Change{expected}, exist: true},
			{apply: []Change{without(expected)}, exist: true},
			{after: idleFor, exist: true},
			{apply: []Change{expected}, exist: true},
			{apply: []Change{without(expected)}, exist: true},
			{after: idleFor, exist: true},
			{after: idleFor},
		}},
		{"a session in TLS", []step{
			{apply: []Change{inTLS}, exist: true},
			{after: 23 * time.Hour, exist: true},
			{apply: []Change{inTLS}, exist: true}, // refreshed
			{after: 23 * time.Hour, exist: true},
			{after: idleFor, exist: true},
			{apply: []Change{without(inTLS)}, exist: true},
			{after: idleFor, exist: true},
			{after: idleFor},
		}},
		{"the table is removed", []step{
			{apply: []Change{expected}, exist: true},
			{restore: true},
			{after: idleFor},
			{apply: []Change{inTLS}, exist: true},
		}},
		{"a saved table is loaded", []step{
			{reload: true},
			{apply: []Change{expected}, exist: true},
			{reload: true},
			{apply: []Change{inTLS}, exist: true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			now := time.Unix(1000, 0)
			cfg := carried
			cfg.Now = func() time.Time { return now }
			table := install(t, cfg)
			for i, s := range tt.steps {
				now = now.Add(s.after)
				var err error
				switch {
				case s.restore:
					if err = RemoveStale(); err == nil {
						_, err = table.Restore()
					}
				case s.reload:
					deleteDataHooks(t)
					var lost bool
					if lost, err = table.Restore(); lost != (i > 0) {
						t.Errorf("step %d: restored %v, want that where hooks are gone", i, lost)
					}
				case s.apply != nil:
					err = table.Apply(s.apply)
				default:
					err = table.DeleteIdleHooks()
				}
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				var want []string
				if s.exist {
					want = []string{"data-prerouting", "data-output"}
				}
				if diff := cmp.Diff(want, dataHooks(t)); diff != "" {
					t.Fatalf("hooks after step %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// TestHooksWithTheTable makes sure that hooks that went with their table are no error.
func TestHooksWithTheTable(t *testing.T) {
	labtest.EnterNetns(t)
	now := time.Unix(1000, 0)
	cfg := carried
	cfg.Now = func() time.Time { return now }
	table := install(t, cfg)
	if err := change(table, addr("192.0.2.1"), addr("203.0.113.1"), 31240, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := RemoveStale(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(idleFor)
		if err := table.DeleteIdleHooks(); err != nil {
			t.Error(err)
		}
	}
}

// TestHooksAfterRemove makes sure that a supervisor may still run when the table goes.
func TestHooksAfterRemove(t *testing.T) {
	labtest.EnterNetns(t)
	now := time.Unix(1000, 0)
	cfg := carried
	cfg.Now = func() time.Time { return now }
	table, err := Install(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(table, addr("192.0.2.1"), addr("203.0.113.1"), 31240, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(idleFor)
		if err := table.DeleteIdleHooks(); err != nil {
			t.Error(err)
		}
	}
}
