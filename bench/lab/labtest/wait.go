package labtest

import (
	"context"
	"testing"
	"time"
)

// Patience turns a hang into a failure. It is far longer than any step takes, even on a
// busy or emulated machine.
const Patience = 3 * time.Minute

// Context returns a context that ends with the test, or when the test hangs.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until a condition holds that the kernel, another process or another
// goroutine brings about. What describes the condition in the failure.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// Count reads a counter, such as [lab.Firewall.Dropped].
func Count(t testing.TB, counter func() (packets uint64, err error)) uint64 {
	t.Helper()
	n, err := counter()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
