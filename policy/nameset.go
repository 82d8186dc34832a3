package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"sort"
)

// nameSet is a set of names with the line each was found in, compact enough
// for lists of a million. Entries lie one after another in blob:
//
//	length (1 byte) | line, less the line of the entry before (uvarint) | name
//
// The table holds their offsets plus one, open addressing with linear probing;
// 0 is a free place. Tags hold 8 bits of the hash beside it, so that a look-up
// seldom touches the blob of another name. Every 64th entry has a mark, from which lines are counted.
type nameSet struct {
	seed  maphash.Seed
	blob  []byte
	table []uint32
	tags  []byte
	count int
	last  int // line of the last entry
	marks []mark
}

type mark struct {
	offset uint32
	line   uint32 // of the entry before the offset
}

const markEvery = 64

// maxBlob keeps offsets within 32 bits.
const maxBlob = 1<<32 - 2*maxName

// add appends a name found in a line, which is not before the last one's.
// It reports whether there was room. index must follow before find.
func (s *nameSet) add(n Name, line int) bool {
	if len(s.blob) > maxBlob {
		return false
	}
	if s.count%markEvery == 0 {
		s.marks = append(s.marks, mark{uint32(len(s.blob)), uint32(s.last)})
	}
	s.blob = append(s.blob, byte(len(n)))
	s.blob = binary.AppendUvarint(s.blob, uint64(line-s.last))
	s.blob = append(s.blob, n...)
	s.last = line
	s.count++
	return true
}

// index builds the table. It leaves a seventh of it free.
func (s *nameSet) index() {
	s.seed = maphash.MakeSeed()
	s.blob = append([]byte(nil), s.blob...) // without spare room
	s.table = make([]uint32, s.count+s.count/6+1)
	s.tags = make([]byte, len(s.table))
	for offset := 0; offset < len(s.blob); {
		name, _, next := s.entry(offset)
		hash := maphash.Bytes(s.seed, name)
		if i, known := s.place(hash, string(name)); !known {
			s.table[i], s.tags[i] = uint32(offset)+1, byte(hash)
		}
		offset = next
	}
}

// find reports whether the set has n, and in which line it was found first.
func (s *nameSet) find(n Name) (line int, ok bool) {
	if s.count == 0 {
		return 0, false
	}
	i, ok := s.place(maphash.String(s.seed, string(n)), string(n))
	if !ok {
		return 0, false
	}
	return s.line(int(s.table[i] - 1)), true
}

// place is where the table has the name, or the free place where it would be.
func (s *nameSet) place(hash uint64, n string) (i int, known bool) {
	hi, _ := bits.Mul64(hash, uint64(len(s.table)))
	for i = int(hi); s.table[i] != 0; {
		if s.tags[i] == byte(hash) {
			if name, _, _ := s.entry(int(s.table[i] - 1)); string(name) == n {
				return i, true
			}
		}
		if i++; i == len(s.table) {
			i = 0
		}
	}
	return i, false
}

// entry decodes the entry at offset; delta is its line less the one before.
func (s *nameSet) entry(offset int) (name []byte, delta, next int) {
	length := int(s.blob[offset])
	d, n := binary.Uvarint(s.blob[offset+1:])
	start := offset + 1 + n
	return s.blob[start : start+length], int(d), start + length
}

// line counts from the mark at or before the entry.
func (s *nameSet) line(offset int) int {
	i := sort.Search(len(s.marks), func(i int) bool { return int(s.marks[i].offset) > offset }) - 1
	at, line := int(s.marks[i].offset), int(s.marks[i].line)
	for {
		_, delta, next := s.entry(at)
		line += delta
		if at == offset {
			return line
		}
		at = next
	}
}
