package policy

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
)

// nameSet is a set of names with the line each was found in, compact enough
// for lists of a million. Entries lie one after another in blob:
//
//	length (1 byte) | line, less that of the first entry of the block (uvarint) | name
//
// The table holds their offsets plus one, open addressing with linear probing;
// 0 is a free place. Tags hold 8 bits of the hash beside it, so that a look-up
// seldom touches the blob of another name. Lines has the line of the first entry
// that begins in each block of the blob.
type nameSet struct {
	seed  maphash.Seed
	blob  []byte
	table []uint32
	tags  []byte
	count int
	lines []uint32
}

// blockBits is of the size of a block: no entry is so long that none begins in
// one, and in most the lines are near enough for one byte.
const blockBits = 10

// maxBlob keeps offsets within 32 bits.
const maxBlob = 1<<32 - 2*maxName

// add appends a name found in a line, which is not before the last one's.
// It reports whether there was room. index must follow before find.
func (s *nameSet) add(n Name, line uint32) bool {
	if len(s.blob) > maxBlob {
		return false
	}
	block := len(s.blob) >> blockBits
	if block == len(s.lines) {
		s.lines = append(s.lines, line)
	}
	s.blob = append(s.blob, byte(len(n)))
	s.blob = binary.AppendUvarint(s.blob, uint64(line-s.lines[block]))
	s.blob = append(s.blob, n...)
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
func (s *nameSet) find(n Name) (line uint32, ok bool) {
	if s.count == 0 {
		return 0, false
	}
	i, ok := s.place(maphash.String(s.seed, string(n)), string(n))
	if !ok {
		return 0, false
	}
	offset := s.table[i] - 1
	_, delta, _ := s.entry(int(offset))
	return s.lines[offset>>blockBits] + delta, true
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

// entry decodes the entry at offset; delta is its line less the first of the block.
func (s *nameSet) entry(offset int) (name []byte, delta uint32, next int) {
	length := int(s.blob[offset])
	d, n := binary.Uvarint(s.blob[offset+1:])
	start := offset + 1 + n
	return s.blob[start : start+length], uint32(d), start + length
}
