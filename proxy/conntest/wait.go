package conntest

import (
	"runtime"
	"testing"
	"time"
)

// Patience is after what a test fails rather than hangs.
const Patience = 20 * time.Second

// Eventually waits for what cannot be waited for otherwise.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// Within fails the test if f takes longer than Patience.
func Within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(Patience):
		b := make([]byte, 1<<20)
		t.Fatalf("%s takes too long:\n%s", what, b[:runtime.Stack(b, true)])
	}
}
