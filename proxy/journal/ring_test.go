package journal

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// It does what a slice would, which is slow but obvious.
func TestRing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var r ring[*int]
	var want []*int
	for i := range 20000 {
		switch grows := i/1000%2 == 0; {
		case len(want) == 0 || random.IntN(10) < 5 != grows:
			x := new(i)
			r.push(x)
			want = append(want, x)
		default:
			if got := r.pop(); got != want[0] {
				t.Fatalf("step %d: %d, not %d", i, *got, *want[0])
			}
			want = want[1:]
		}
		if r.n != len(want) {
			t.Fatalf("step %d: %d items, not %d", i, r.n, len(want))
		}
		if n := random.IntN(len(want) + 1); n < len(want) && *r.at(n) != want[n] {
			t.Fatalf("step %d: at %d is %d, not %d", i, n, **r.at(n), *want[n])
		}
		if kept := slices.DeleteFunc(slices.Clone(r.items), func(x *int) bool { return x == nil }); len(kept) != r.n {
			t.Fatalf("step %d: %d of %d are kept", i, len(kept), r.n)
		}
	}
}

// However much goes through, it takes no more memory than for what waits; and none
// when nothing does.
func TestRingMemory(t *testing.T) {
	var r ring[int]
	for i := range 10 {
		r.push(i)
	}
	if n := testing.AllocsPerRun(10000, func() { r.push(1); r.pop() }); n != 0 || len(r.items) > 16 {
		t.Errorf("%v allocations, and room for %d", n, len(r.items))
	}
	for i := range maxQueued {
		r.push(i)
	}
	if len(r.items) > 2*(maxQueued+10) {
		t.Errorf("room for %d", len(r.items))
	}
	for r.n > 0 {
		r.pop()
	}
	if r.items != nil {
		t.Errorf("room for %d when empty", len(r.items))
	}
	r.push(1)
	if r.pop() != 1 {
		t.Error("it does not go on")
	}
}
