package journal

// ring is a first-in, first-out queue. It grows by doubling, and gives its memory back
// when it is empty.
type ring[T any] struct {
	items []T // from first on, around the end
	first int
	n     int // how many there are
}

// keptRoom is up to how many items the memory of an empty ring is kept.
const keptRoom = 64

func (r *ring[T]) push(x T) {
	if r.n == len(r.items) {
		items := make([]T, max(16, 2*r.n))
		copy(items[copy(items, r.items[r.first:]):], r.items[:r.first])
		r.items, r.first = items, 0
	}
	*r.at(r.n) = x
	r.n++
}

// at is the item at a place; the oldest is at 0. It stays there until push or pop.
func (r *ring[T]) at(i int) *T { return &r.items[(r.first+i)%len(r.items)] }

// pop takes out the oldest item. There has to be one.
func (r *ring[T]) pop() T {
	var none T
	x := r.items[r.first]
	r.items[r.first] = none // what it refers to may be forgotten
	r.first = (r.first + 1) % len(r.items)
	if r.n--; r.n == 0 && len(r.items) > keptRoom {
		r.items, r.first = nil, 0
	}
	return x
}
