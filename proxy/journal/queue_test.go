package journal

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"appfw/dnsguard"
	"appfw/policy"
)

// denialOf is a denial of a flow to an address that n names.
func denialOf(n int) item {
	addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	return item{kind: ofFlow, denial: true, flow: Event{
		Verdict: policy.Denial("no rule allows it"), Proto: "tcp", Dst: netip.AddrPortFrom(addr, 80), Client: fmt.Sprintf("127.0.0.1:%d", 1024+n),
	}}
}

// other is no denial; its text tells which.
func other(n int) item { return item{kind: ofWords, text: fmt.Sprint(n)} }

// taken is what comes out of a queue.
type taken struct {
	items   []*item
	before  []lost // before each of the items, and at the end
	lost    lost
	denials int // how often what was denied, was
}

// others are the texts of what is no denial.
func (x *taken) others() (texts []string) {
	for _, i := range x.items {
		if !i.denial {
			texts = append(texts, i.text)
		}
	}
	return texts
}

// rest closes the queue and takes all that is left.
func rest(t *testing.T, q *queue) (all taken) {
	t.Helper()
	q.close()
	for open := true; open; {
		var x *item
		var before lost
		x, before, open = q.take()
		all.before = append(all.before, before)
		all.lost.denials += before.denials
		all.lost.others += before.others
		if x == nil {
			continue
		}
		all.items = append(all.items, x)
		if x.denial {
			all.denials += x.count
		}
		if n := len(all.items); n > 1 && all.items[n-2].number >= x.number {
			t.Fatalf("number %d comes after %d", x.number, all.items[n-2].number)
		}
	}
	if q.missing(true) != all.lost {
		t.Errorf("%v are missing, and it was said that %v are", q.missing(true), all.lost)
	}
	return all
}

// What comes out is in order, whatever it is.
func TestQueueOrder(t *testing.T) {
	q := newQueue()
	for i := range 30 {
		if i%3 == 0 {
			q.add(denialOf(i))
		} else {
			q.add(other(i))
		}
	}
	all := rest(t, q)
	if len(all.items) != 30 || all.lost != (lost{}) {
		t.Errorf("%d items, and %v lost", len(all.items), all.lost)
	}
	q.add(other(1))
	if x, before, open := q.take(); x != nil || before != (lost{}) || open {
		t.Error("a closed queue took something in")
	}
}

// While nobody is behind, each denial is an item; from foldFrom on, like ones are one.
func TestQueueFolds(t *testing.T) {
	q := newQueue()
	for range foldFrom {
		q.add(denialOf(1))
	}
	for range 100 {
		q.add(denialOf(1))
		q.add(denialOf(2))
	}
	q.add(other(0))
	elsewhere := denialOf(2)
	elsewhere.flow.Client = "127.0.0.9:80"
	q.add(elsewhere)
	asks := func(verdict policy.Verdict) item {
		return item{kind: ofQuestion, denial: true, question: dnsguard.Question{Name: "a.example", Type: "A", Verdict: verdict}}
	}
	for range 5 {
		q.add(asks(policy.Denial("no rule allows it")))
		q.add(asks(policy.Denial("another reason")))
	}
	for range foldFrom { // what is folded finds its item again when others were taken
		_, _, _ = q.take()
	}
	for range 10 { // who writes is not behind any more
		q.add(denialOf(1))
	}
	all := rest(t, q)
	var counts []int
	for _, x := range all.items {
		counts = append(counts, x.count)
	}
	if want := append([]int{100, 100, 1, 1, 5, 5}, slices.Repeat([]int{1}, 10)...); !slices.Equal(counts, want) {
		t.Errorf("counts %v, want %v", counts, want)
	}
	if len(q.folded) != 0 {
		t.Errorf("%d keys are left", len(q.folded))
	}
}

// Denials are bounded, and so is all; of denials the first are kept, of others, too.
func TestQueueBounds(t *testing.T) {
	q := newQueue()
	for i := range maxDenials + 10 {
		q.add(denialOf(i))
	}
	for i := range maxQueued - maxDenials {
		q.add(other(i))
	}
	if q.missing(false) != (lost{denials: 10}) {
		t.Errorf("lost %v", q.missing(false))
	}
	q.add(denialOf(foldFrom)) // like one that waits
	if q.missing(false) != (lost{denials: 10}) || q.denials.at(foldFrom).count != 2 {
		t.Errorf("lost %v, count %d", q.missing(false), q.denials.at(foldFrom).count)
	}
	for i := range maxDenials { // denials make room, the oldest first, with all that was folded into them
		q.add(other(i))
	}
	if q.missing(false) != (lost{denials: 10 + maxDenials + 1}) || q.denials.n != 0 || len(q.folded) != 0 {
		t.Errorf("lost %v, and %d denials wait", q.missing(false), q.denials.n)
	}
	q.add(other(-1)) // now there is no room
	q.add(denialOf(0))
	all := rest(t, q)
	if all.lost != (lost{10 + maxDenials + 2, 1}) || len(all.items) != maxQueued || slices.Contains(all.others(), "-1") {
		t.Errorf("lost %v, and %d came out", all.lost, len(all.items))
	}
}

// What was dropped is said where it would have been.
func TestQueueGaps(t *testing.T) {
	q := newQueue()
	for i := range maxDenials {
		q.add(denialOf(i))
	}
	for i := range 5 {
		q.add(denialOf(maxDenials + i))
	}
	if x, before, _ := q.take(); x == nil || before != (lost{}) {
		t.Errorf("%v before the first", before)
	}
	q.add(other(1))
	for range 3 { // one has room
		q.add(denialOf(1 << 20))
		q.add(denialOf(1 << 21))
	}
	all := rest(t, q)
	if n := len(all.items); n != maxDenials+1 || all.items[n-2].text != "1" || all.before[n-2] != (lost{denials: 8}) || all.lost.denials != 8 {
		t.Errorf("%d items; before %v", n, all.before[n-3:])
	}

	q = newQueue()
	q.add(denialOf(1))
	for i := range maxQueued {
		q.add(other(i))
	}
	q.add(other(-1))
	all = rest(t, q)
	if all.before[0] != (lost{1, 1}) || len(all.items) != maxQueued {
		t.Errorf("before %v", all.before[:3])
	}
}

// A flood of denials hides nothing else, though nobody takes anything meanwhile.
func TestQueueFlood(t *testing.T) {
	q := newQueue()
	const flood, allowed = 100_000, 1000
	for i := range flood {
		q.add(denialOf(i))
		if i%(flood/allowed) == 0 {
			q.add(other(i))
		}
	}
	all := rest(t, q)
	if n := len(all.others()); n != allowed {
		t.Errorf("%d of %d came out", n, allowed)
	}
	if all.denials+all.lost.denials != flood || all.lost.others != 0 {
		t.Errorf("%d denials, and %v lost, of %d", all.denials, all.lost, flood)
	}
	if room := len(q.denials.items) + len(q.others.items); room > 2*keptRoom {
		t.Errorf("room for %d is left", room)
	}
}

// Many add while one takes: nothing is lost but what is counted, what one adds stays in
// order, and who waits is woken.
func TestQueueManyAdders(t *testing.T) {
	q := newQueue()
	const adders, each = 8, 5000
	var adding sync.WaitGroup
	for a := range adders {
		adding.Go(func() {
			for i := range each {
				q.add(denialOf(a<<20 + i%100))
				q.add(item{kind: ofWords, text: fmt.Sprint(a), flow: Event{Flow: uint64(i)}})
			}
		})
	}
	go func() { adding.Wait(); q.close() }()
	last := make(map[string]uint64)
	var got, sum lost
	for open := true; open; {
		var x *item
		var before lost
		x, before, open = q.take()
		sum.denials += before.denials
		sum.others += before.others
		switch {
		case x == nil:
		case x.denial:
			got.denials += x.count
		default:
			if before, seen := last[x.text]; seen && x.flow.Flow <= before {
				t.Fatalf("adder %s: %d after %d", x.text, x.flow.Flow, before)
			}
			last[x.text] = x.flow.Flow
			got.others++
		}
	}
	if got.denials+sum.denials != adders*each || got.others+sum.others != adders*each {
		t.Errorf("%+v came out, and %+v were lost, of %d", got, sum, adders*each)
	}
}

// Who waits goes on when something comes, and when the queue is closed.
func TestQueueWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var texts []string
		ended := false
		go func() {
			for open := true; open; {
				var x *item
				if x, _, open = q.take(); x != nil {
					texts = append(texts, x.text)
				}
			}
			ended = true
		}()
		for i := range 100 {
			synctest.Wait() // it waits
			if len(texts) != 2*i {
				t.Fatalf("%d were taken, not %d", len(texts), 2*i)
			}
			q.add(other(i))
			q.add(other(i))
		}
		synctest.Wait()
		if ended {
			t.Error("it ended before the queue was closed")
		}
		q.close()
		synctest.Wait()
		if !ended || len(texts) != 200 {
			t.Errorf("%d were taken; ended: %v", len(texts), ended)
		}
	})
}

// What waits counts as missing when nobody will take it; to open the log anew does not.
func TestQueueMissing(t *testing.T) {
	q := newQueue()
	for i := range foldFrom + 1 {
		q.add(denialOf(i))
	}
	q.add(denialOf(foldFrom))
	q.add(other(1))
	q.add(item{kind: ofReopen})
	q.close()
	if got := q.missing(false); got != (lost{}) {
		t.Errorf("%v", got)
	}
	if got := q.missing(true); got != (lost{foldFrom + 2, 1}) {
		t.Errorf("%v", got)
	}
}

func TestLostString(t *testing.T) {
	for want, l := range map[string]lost{
		"1 denial": {1, 0}, "12 denials": {12, 0}, "1 other": {0, 1}, "2 others": {0, 2}, "3 denials and 1 other": {3, 1},
	} {
		if got := l.String(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
