package sniff

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"appfw/policy"
)

// What FuzzQUIC reads: items of a byte that tells what the item is, its length
// in two bytes, and the item.
const (
	fuzzDatagram = 0      // a datagram
	fuzzPayload  = 1      // the payload of an Initial
	fuzzCrypto   = 2      // two bytes of offset and what a CRYPTO frame has there
	fuzzEarly    = 3      // a 0-RTT packet ahead of an Initial with this payload
	fuzzV2       = 1 << 2 // of version 2
	fuzzSecond   = 1 << 3 // of a second connection
	fuzzLater    = 1 << 4 // to the ID that the server chose
)

func fuzzItem(kind byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(data))), data...)
}

// fuzzHello is a CRYPTO frame with a part of a message.
func fuzzHello(kind byte, message []byte, from, to int) []byte {
	return fuzzItem(fuzzCrypto|kind, append(binary.BigEndian.AppendUint16(nil, uint16(from)), message[from:to]...))
}

// servedQUIC is the name that crypto/tls finds in a stream of CRYPTO frames, and
// whether there is enough of it.
func servedQUIC(stream []byte) (name string, served bool) {
	server := tls.QUICServer(&tls.QUICConfig{TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, served = h.ServerName, true
			return nil, errors.New("enough")
		},
	}})
	defer server.Close()
	server.SetTransportParameters(nil)
	if server.Start(context.Background()) == nil {
		_ = server.HandleData(tls.QUICEncryptionLevelInitial, stream)
	}
	return name, served
}

// fuzzStream is a slow model of a stream.
type fuzzStream map[int]byte

func (s fuzzStream) write(offset int, data []byte) (ok bool) {
	for i, b := range data {
		if had, present := s[offset+i]; present && had != b {
			return false
		}
		s[offset+i] = b
	}
	return true
}

func (s fuzzStream) front() (front []byte) {
	for i := 0; ; i++ {
		b, ok := s[i]
		if !ok {
			return front
		}
		front = append(front, b)
	}
}

// FuzzQUIC: no flow takes more than its bounds or comes back from an error, and
// no ClientHello that crypto/tls understands passes unread or for another
// name's.
func FuzzQUIC(f *testing.F) {
	m := handshake(extension{0x0a0a, ""}, sni("a.example"), extension{43, "\x02\x03\x04"}, extension{57, strings.Repeat("p", 50)})
	again := append(slices.Clone(m), handshake(sni("b.example"))...)
	for _, items := range [][][]byte{
		{fuzzHello(0, m, 0, len(m))},
		{fuzzHello(0, m, 40, len(m)), fuzzHello(0, m, 0, 50)},
		{fuzzHello(0, again, 0, len(m)), fuzzHello(fuzzV2|fuzzLater, again, len(m), len(again))},
		{fuzzHello(0, m, 0, len(m)), fuzzHello(fuzzSecond, m, 0, 20), fuzzItem(fuzzDatagram, []byte("\x80rtp")), fuzzHello(fuzzSecond|fuzzV2, m, 20, len(m))},
		{fuzzItem(fuzzPayload, append([]byte{1, 2, 5, 0, 1, 0, 0, 0, 3, 5, 0, 0, 0, 1, 2, 3, 0x1c, 2, 0, 1, 'x'}, crypto(0, m)...))},
		{fuzzItem(fuzzEarly, crypto(0, m))},
		{fuzzHello(fuzzLater, m, 0, 30)},
	} {
		f.Add(slices.Concat(items...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q QUIC
		ids := []string{"original", "second one"}
		models := []fuzzStream{{}, {}}
		known, early, number := true, false, uint64(0)
		for len(b) >= 3 && number < 500 {
			kind, size := b[0], min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
			item := b[3 : 3+size]
			b = b[3+size:]

			which := int(kind / fuzzSecond & 1)
			c := newClient(&quicVersions[kind/fuzzV2&1], ids[which])
			if kind&fuzzLater != 0 {
				c.dcid = "chosen"
			}
			c.number = number
			number++
			model, same, datagram := models[which], true, item
			switch kind & 3 {
			case fuzzDatagram:
				known = known && !looksQUIC(item)
			case fuzzPayload:
				datagram, known = c.initial(item), false
			case fuzzCrypto:
				if len(item) < 2 {
					continue
				}
				offset := int(binary.BigEndian.Uint16(item))
				datagram, same = c.initial(crypto(offset, item[2:])), model.write(offset, item[2:])
			case fuzzEarly:
				datagram, known, early = append(c.other(1), c.initial(item)...), false, true
			}

			names, more, err := q.Read(datagram)
			held := 0
			for _, c := range q.connections {
				held += len(c.stream)
			}
			if held > maxStreams+1<<17 || len(q.connections) > maxConnections {
				t.Fatalf("%d bytes of %d connections", held, len(q.connections))
			}
			if err != nil {
				if len(names) > 0 || more {
					t.Fatalf("%q, %t, %v", names, more, err)
				}
				if _, _, again := q.Read([]byte("\x80")); again == nil {
					t.Fatalf("no error any more after %v", err)
				}
				return
			}
			if !same {
				t.Fatal("what was sent in two ways passes")
			}
			if !early && len(q.connections) == 0 && more && known {
				t.Fatal("more of nothing")
			}
			if !known {
				continue
			}
			for i, model := range models {
				front := model.front()
				shown, served := servedQUIC(front)
				at := slices.IndexFunc(q.connections, func(c *quicConnection) bool { return c.id == ids[i] })
				if served && (at < 0 || q.connections[at].hellos == 0) {
					t.Fatalf("crypto/tls has enough of %x", front)
				}
				if at >= 0 && q.connections[at].incomplete() && !more {
					t.Fatal("an incomplete ClientHello passes")
				}
				want, _ := policy.ParseName(shown)
				first := served && i == which && kind&3 == fuzzCrypto && q.connections[at].hellos == 1 && len(names) > 0
				if first && names[0] != want || shown != "" && want == "" {
					t.Fatalf("%x is for %q to crypto/tls, for %q here", front, shown, names)
				}
			}
		}
	})
}
