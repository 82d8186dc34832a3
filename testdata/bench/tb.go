package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// tb is what package internet needs of a test.
type tb struct {
	testing.TB // nil: all that is called is below

	failed   atomic.Bool
	mu       sync.Mutex
	cleanups []func()
}

func (t *tb) Helper() {}

func (t *tb) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *tb) Failed() bool { return t.failed.Load() }

func (t *tb) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

func (t *tb) Errorf(format string, args ...any) {
	t.Logf(format, args...)
	t.failed.Store(true)
}

func (t *tb) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }

func (t *tb) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

// Fatalf cleans up and ends the program.
func (t *tb) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	t.cleanup()
}

// cleanup undoes everything, last first, and ends the program if something failed.
func (t *tb) cleanup() {
	t.mu.Lock()
	cleanups := t.cleanups
	t.cleanups = nil
	t.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
	if t.Failed() {
		os.Exit(1)
	}
}
