package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// nameSet is a set of names with the line each was found in, compact enough
// for lists of a million. Entries lie one after another in chunks:
//
//	length (1 byte) | line, less that of the first entry of the block (uvarint) | name
//
// The table holds their offsets, open addressing with linear probing. Tags hold
// 8 bits of the hash beside it, so that a look-up seldom touches the entry of
// another name; 0 is a free place. Lines has the line of the first entry
// that begins in each block of a chunk.
type nameSet struct {
	seed   maphash.Seed
	chunks [][]byte
	table  []uint32
	tags   []byte
	count  int
	lines  []uint32
}

const (
	maxEntry = 1 + binary.MaxVarintLen32 + maxName
	// An offset is the number of a chunk and where in it: what is loaded is not
	// moved as the set grows.
	chunkBits = 16
	chunkSize = 1 << chunkBits
	// In every block some entry begins, and in most the lines are near enough for
	// one byte.
	blockBits = 10
)

// add appends a name found in a line, which is not before the last one's.
// It reports whether there was room. fit must follow before find.
func (s *nameSet) add(n Name, line uint32) bool {
	last := len(s.chunks) - 1
	if last < 0 || len(s.chunks[last]) > chunkSize-maxEntry {
		if last++; last == 1<<(32-chunkBits)-1 {
			return false
		}
		s.chunks = append(s.chunks, nil)
		if last > 0 {
			s.chunks[last] = make([]byte, 0, chunkSize)
		}
	}
	b := s.chunks[last]
	block := (last<<chunkBits + len(b)) >> blockBits
	if block == len(s.lines) {
		s.lines = append(s.lines, line)
	}
	b = append(b, byte(len(n)))
	b = binary.AppendUvarint(b, uint64(line-s.lines[block]))
	s.chunks[last] = append(b, n...)
	s.count++
	return true
}

// insert adds a name without a line. It reports whether it was not there, and
// there was room. Find may follow.
func (s *nameSet) insert(n Name) bool {
	if len(s.tags) < spacious(s.count+1) {
		s.index(2 * spacious(s.count+1))
	}
	hash := maphash.String(s.seed, string(n))
	i, known := s.place(hash, string(n))
	if known || !s.add(n, 0) {
		return false
	}
	last := len(s.chunks) - 1
	size := 2 + len(n) // the line is 0
	s.table[i], s.tags[i] = uint32(last<<chunkBits+len(s.chunks[last])-size), tag(hash)
	return true
}

// fit builds the table as small as is good, and drops spare room.
func (s *nameSet) fit() {
	if s.count == 0 {
		return
	}
	last := &s.chunks[len(s.chunks)-1]
	*last = append([]byte(nil), *last...)
	s.index(spacious(s.count))
}

// spacious is how large a table leaves a seventh of it free.
func spacious(count int) int { return count + count/6 + 1 }

// index builds the table.
func (s *nameSet) index(size int) {
	s.seed = maphash.MakeSeed()
	s.table, s.tags = make([]uint32, size), make([]byte, size)
	for i, chunk := range s.chunks {
		for at := 0; at < len(chunk); {
			offset := uint32(i<<chunkBits + at)
			name, _, size := s.entry(offset)
			hash := maphash.Bytes(s.seed, name)
			if i, known := s.place(hash, string(name)); !known {
				s.table[i], s.tags[i] = offset, tag(hash)
			}
			at += size
		}
	}
}

// find reports whether the set has n, and in which line it was found first.
func (s *nameSet) find(n Name) (line uint32, ok bool) {
	if s.count == 0 {
		return 0, false
	}
	i, ok := s.place(maphash.String(s.seed, string(n)), string(n))
	if !ok {
		return 0, false
	}
	_, delta, _ := s.entry(s.table[i])
	return s.lines[s.table[i]>>blockBits] + delta, true
}

// place is where the table has the name, or the free place where it would be.
func (s *nameSet) place(hash uint64, n string) (i int, known bool) {
	tags, wanted := s.tags, tag(hash)
	hi, _ := bits.Mul64(hash, uint64(len(tags)))
	for i = int(hi); tags[i] != 0; {
		if tags[i] == wanted {
			if name, _, _ := s.entry(s.table[i]); string(name) == n {
				return i, true
			}
		}
		if i++; i == len(tags) {
			i = 0
		}
	}
	return i, false
}

// tag is never 0.
func tag(hash uint64) byte { return max(byte(hash), 1) }

// entry decodes the entry at offset; delta is its line less the first of the block.
func (s *nameSet) entry(offset uint32) (name []byte, delta uint32, size int) {
	b := s.chunks[offset>>chunkBits][offset%chunkSize:]
	d, n := binary.Uvarint(b[1:])
	size = 1 + n + int(b[0])
	return b[1+n : size], uint32(d), size
}
