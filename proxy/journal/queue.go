package journal

import (
	"fmt"
	"net"
	"sync"
	"time"

	"appfw/dnsguard"
)

const (
	// maxQueued bounds what waits to be written, and maxDenials, of that, what was
	// denied: a flood of denials leaves room for what was allowed.
	maxQueued  = 8192
	maxDenials = 2048
	// foldFrom is from how many denials on that wait others like them are folded: who
	// writes is behind.
	foldFrom = 64
)

// item is one thing that is to be written.
type item struct {
	at       time.Time
	kind     kind
	denial   bool // it may be folded with others like it, and is dropped before others
	flow     Event
	question dnsguard.Question
	text     string
	count    int    // how often it happened while it waited
	key      string // of a denial, once others are folded into it: what it is about
	number   uint64 // in the order of the queue
}

// kind is what an item is.
type kind uint8

const (
	ofFlow     kind = iota // flow
	ofQuestion             // question
	ofReload               // text
	ofNote                 // text: it is not wrong, and hardly meant
	ofWords                // text
	ofReopen               // the log is to be opened anew
	ofFold                 // it is time to record what was folded
)

// about is the same for denials that say the same. The ports of clients do not matter:
// each of their connections has another.
func (x *item) about() string {
	if x.kind == ofQuestion {
		return "dns\x00" + x.question.Name + "\x00" + x.question.Type + "\x00" + x.question.Verdict.Reason()
	}
	e := &x.flow
	client, _, err := net.SplitHostPort(e.Client)
	if err != nil {
		client = e.Client
	}
	return e.What() + "\x00" + e.Dst.String() + "\x00" + client + "\x00" + e.Verdict.Reason()
}

// lost is how much was dropped.
type lost struct{ denials, others int }

func (l lost) String() string {
	switch {
	case l.others == 0:
		return number(l.denials, "denial")
	case l.denials == 0:
		return number(l.others, "other")
	}
	return number(l.denials, "denial") + " and " + number(l.others, "other")
}

// number says how many there are of something.
func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// queue takes items in without waiting, for one goroutine that takes them out.
// What does not fit is counted: denials are folded and dropped first.
type queue struct {
	mu      sync.Mutex
	others  ring[item]
	denials ring[item]
	folded  map[string]int // by key, which denial it is, of all that were ever taken in
	taken   int            // how many denials were taken out
	number  uint64         // of the item that came last
	dropped lost           // since that was said last
	gap     uint64         // the number of the first item that was
	all     lost           // that were ever dropped
	closed  bool           // nothing more is taken in
	ready   chan struct{}  // has something if there is something to take; closed with the queue
}

func newQueue() *queue {
	return &queue{folded: make(map[string]int), ready: make(chan struct{}, 1)}
}

// add takes in an item.
func (q *queue) add(x item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.number++
	x.number, x.count = q.number, 1
	full := q.others.n+q.denials.n >= maxQueued
	switch {
	case x.denial:
		if q.fold(&x) {
			return
		}
		if full || q.denials.n >= maxDenials {
			q.drop(x)
			return
		}
		if x.key != "" {
			q.folded[x.key] = q.taken + q.denials.n
		}
		q.denials.push(x)
	case full && q.denials.n == 0:
		q.drop(x)
		return
	case full: // the oldest denial makes room
		q.drop(q.popDenial())
		q.others.push(x)
	default:
		q.others.push(x)
	}
	select {
	case q.ready <- struct{}{}:
	default: // who takes has not seen that there is something already
	}
}

// fold counts a denial with one like it that waits, if who writes is behind and there
// is one. q.mu is held.
func (q *queue) fold(x *item) bool {
	if q.denials.n < foldFrom {
		return false
	}
	x.key = x.about()
	i, waits := q.folded[x.key]
	if waits {
		q.denials.at(i-q.taken).count++
	}
	return waits
}

// drop counts an item that is lost. q.mu is held.
func (q *queue) drop(x item) {
	if q.dropped == (lost{}) || x.number < q.gap {
		q.gap = x.number
	}
	for _, l := range []*lost{&q.dropped, &q.all} {
		if x.denial {
			l.denials += x.count
		} else {
			l.others += x.count
		}
	}
}

// popDenial takes out the oldest denial. q.mu is held.
func (q *queue) popDenial() item {
	x := q.denials.pop()
	q.taken++
	if x.key != "" {
		delete(q.folded, x.key)
	}
	return x
}

// take takes out the oldest item, waiting until there is one: before says what was
// dropped where that would have been. At the end of a closed queue, open is false and
// x is nil.
func (q *queue) take() (x *item, before lost, open bool) {
	for {
		q.mu.Lock()
		x, open = q.oldest(), !q.closed
		if x == nil || x.number > q.gap {
			before, q.dropped = q.dropped, lost{}
		}
		q.mu.Unlock()
		if x != nil || before != (lost{}) || !open {
			return x, before, x != nil || open
		}
		<-q.ready
	}
}

// oldest takes out the oldest item; nil if there is none. q.mu is held.
func (q *queue) oldest() *item {
	var x item
	switch {
	case q.denials.n > 0 && (q.others.n == 0 || q.denials.at(0).number < q.others.at(0).number):
		x = q.popDenial()
	case q.others.n > 0:
		x = q.others.pop()
	default:
		return nil
	}
	return &x
}

// close has take end when the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ready)
	}
}

// missing is what was ever dropped. With waits, what waits is counted, too: nobody
// will take it.
func (q *queue) missing(waits bool) lost {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.all
	if waits {
		for i := range q.denials.n {
			all.denials += q.denials.at(i).count
		}
		for i := range q.others.n {
			if k := q.others.at(i).kind; k != ofReopen && k != ofFold {
				all.others++
			}
		}
	}
	return all
}
