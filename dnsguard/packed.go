package dnsguard

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// packed is an answer as it is sent, but for its ID, some flags, the case of the
// name, and the age of its records. It holds while its entry does.
type packed struct {
	message   []byte
	ttls      []int // where the TTLs are
	authentic bool  // to who understands that
	pinned    pinned
	log       Question
}

// Of a header (RFC 1035, 4.1.1) and a question (4.1.2).
const (
	headerSize   = 12
	flagRD       = 1    // in the third byte
	flagAD       = 0x20 // in the fourth
	flagCD       = 0x10
	fixedSize    = 4  // of the type and class of a question
	optSize      = 11 // of an OPT record without options (RFC 6891, 6.1.2)
	flagDO       = 0x80
	recordSize   = 10 // of a record, without its name and data
	ttlInRecord  = 4
	sizeInRecord = 8
)

// plainQuery is a query as programs send them: a question for a name of letters,
// digits, "-" and "_", at most with an OPT record without options.
type plainQuery struct {
	name   []byte // in lower case, without the last dot
	end    int    // of the question
	qtype  uint16
	edns   bool
	dnssec bool
	size   int // of answers that it takes, in bytes
}

// readPlain reads a query; false if it is none of the plain ones. name is where to
// put its name.
func readPlain(b, name []byte) (q plainQuery, ok bool) {
	if len(b) < headerSize || b[2]&^flagRD != 0 || b[3]&^(flagAD|flagCD) != 0 {
		return q, false
	}
	if b[4] != 0 || b[5] != 1 || b[6]|b[7]|b[8]|b[9]|b[10] != 0 || b[11] > 1 { // counts of records
		return q, false
	}
	q.name = name[:0]
	at := headerSize
	for {
		if at >= len(b) {
			return q, false
		}
		n := int(b[at])
		at++
		if n == 0 {
			break
		}
		if n > 63 || at+n > len(b) || len(q.name)+1+n > cap(name) {
			return q, false
		}
		if len(q.name) > 0 {
			q.name = append(q.name, '.')
		}
		for _, c := range b[at : at+n] {
			switch {
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return q, false
			}
			q.name = append(q.name, c)
		}
		at += n
	}
	q.end = at + fixedSize
	if q.end > len(b) || b[at+2] != 0 || b[at+3] != dns.ClassINET {
		return q, false
	}
	q.qtype = binary.BigEndian.Uint16(b[at:])
	q.size = dns.MinMsgSize
	opt := b[q.end:]
	if b[11] == 0 {
		return q, len(opt) == 0
	}
	// Root, OPT, size, extended RCODE, version, DO, rest of flags, no data.
	if len(opt) != optSize || opt[0] != 0 || opt[1] != 0 || opt[2] != byte(dns.TypeOPT) ||
		opt[5]|opt[6] != 0 || opt[7]&^flagDO != 0 || opt[8]|opt[9]|opt[10] != 0 {
		return q, false
	}
	q.edns, q.dnssec = true, opt[7] == flagDO
	q.size = answerSize(binary.BigEndian.Uint16(opt[3:]))
	return q, true
}

// answerSize is how large answers over UDP may be, for who says so by EDNS.
func answerSize(said uint16) int { return min(max(dns.MinMsgSize, int(said)), maxUDPAnswer) }

// maxUDPAnswer is how large answers over UDP are at most.
const maxUDPAnswer = 4096

// ready answers a datagram out of the cache, if the answer is there as it is to be
// sent: what [Guard.AnswerPacket] would answer, appended to out.
func (g *Guard) ready(ctx context.Context, packet, out []byte) ([]byte, bool) {
	var room [256]byte
	q, ok := readPlain(packet, room[:])
	if !ok {
		return out, false
	}
	rules, now := g.Policy(), g.Now()
	p, e, hot := g.cache.getPacked(q, rules, now)
	if hot {
		k := key{policy.Name(q.name), q.qtype, q.dnssec}
		go g.prefetch(ctx, rules, k, e) // ends with ctx
	}
	if p == nil || !p.pinned.again(now) {
		return out, false
	}
	g.Log(p.log)
	start := len(out)
	out = append(out, p.message...)
	m := out[start:]
	m[0], m[1] = packet[0], packet[1]
	m[2] |= packet[2] & flagRD
	m[3] |= packet[3] & flagCD
	if p.authentic && (q.dnssec || packet[3]&flagAD != 0) {
		m[3] |= flagAD
	}
	copy(m[headerSize:q.end], packet[headerSize:]) // the case the app asked in
	if age := uint32(max(0, now.Sub(e.stored)/time.Second)); age > 0 {
		for _, at := range p.ttls {
			ttl := binary.BigEndian.Uint32(m[at:])
			binary.BigEndian.PutUint32(m[at:], ttl-min(age, ttl))
		}
	}
	return out, true
}

// getPacked is get for what is ready and fresh; p is nil if nothing is.
func (c *cache) getPacked(q plainQuery, rules *policy.Policy, now time.Time) (p *packed, e *entry, hot bool) {
	s := &c.shards[maphash.Bytes(c.seed, q.name)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	el := s.entries[key{policy.Name(q.name), q.qtype, q.dnssec}]
	if el == nil {
		return nil, nil, false
	}
	x := el.Value.(*cached)
	if p = x.packed[index(q.edns)]; p == nil || len(p.message) > q.size || x.entry.rules != rules || !x.entry.fresh(now) {
		return nil, nil, false
	}
	return p, x.entry, s.use(el, now)
}

// keepReady makes the answer to q ready to be sent, if it was asked for before.
func (c *cache) keepReady(q *dns.Msg, f found) {
	k := key{policy.Name(f.log.Name), q.Question[0].Qtype, wantsDNSSEC(q)}
	kept := func(s *shard) *cached {
		if el := s.entries[k]; el != nil && el.Value.(*cached).entry == f.entry && !f.entry.revived {
			return el.Value.(*cached)
		}
		return nil
	}
	edns := index(q.IsEdns0() != nil)
	s := c.of(k.name)
	x := kept(s)
	wanted := x != nil && x.hits > 0 && !x.large && (x.packed[edns] == nil || x.packed[edns].pinned.gone())
	s.mu.Unlock()
	if !wanted {
		return // it is not asked for again, or is ready: the query is none of the plain ones
	}
	m := f.entry.answer(q, f.entry.stored)
	m.Compress = true
	message, err := m.Pack()
	ttls, ok := findTTLs(message)
	s = c.of(k.name)
	defer s.mu.Unlock()
	if x = kept(s); x == nil {
		return
	}
	if err != nil || !ok || len(message) > maxUDPAnswer {
		x.large = true
		return
	}
	message[2] &^= flagRD
	message[3] &^= flagCD | flagAD
	p := &x.packed[edns]
	if *p == nil { // else it is about as large
		size := 512 + len(message) + 8*len(ttls) + 128*len(f.pinned.pins) // about
		x.size += size
		s.size += size
	}
	*p = &packed{message: message, ttls: ttls, authentic: f.entry.authentic, pinned: f.pinned, log: f.log}
	s.trim()
}

// findTTLs are where the TTLs of a message's records are; false if it makes no
// sense. An OPT record has none.
func findTTLs(m []byte) (ttls []int, ok bool) {
	if len(m) < headerSize {
		return nil, false
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(m[4+2*i:])) }
	at := headerSize
	for range count(0) {
		if at = skipName(m, at) + fixedSize; at > len(m) {
			return nil, false
		}
	}
	for range count(1) + count(2) + count(3) {
		at = skipName(m, at)
		if at+recordSize > len(m) {
			return nil, false
		}
		if binary.BigEndian.Uint16(m[at:]) != dns.TypeOPT {
			ttls = append(ttls, at+ttlInRecord)
		}
		at += recordSize + int(binary.BigEndian.Uint16(m[at+sizeInRecord:]))
	}
	return ttls, at == len(m)
}

// skipName is where a name (RFC 1035, 4.1.4) in a message ends; beyond the message
// if it does not.
func skipName(m []byte, at int) int {
	for at < len(m) {
		switch n := int(m[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		default:
			at += 1 + n
		}
	}
	return len(m) + 1
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}
