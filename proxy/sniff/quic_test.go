package sniff

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"appfw/policy"
)

// reads is what a flow's reader makes of a datagram, in words: the names, and
// "more", "error", or "pass" for nothing of these. The datagram is to be passed
// on, so it must stay what it is.
func reads(t testing.TB, q *QUIC, datagram []byte) string {
	t.Helper()
	before := bytes.Clone(datagram)
	names, more, err := q.Read(datagram)
	if !bytes.Equal(before, datagram) {
		t.Error("the datagram was changed")
	}
	if err != nil {
		if names != nil || more {
			t.Errorf("%v, %t and an error", names, more)
		}
		return "error"
	}
	var words []string
	for _, n := range names {
		words = append(words, string(n))
	}
	if more {
		words = append(words, "more")
	}
	if words == nil {
		return "pass"
	}
	return strings.Join(words, " ")
}

var quicV1, quicV2 = &quicVersions[0], &quicVersions[1]

// quicClient builds the packets of a connection.
type quicClient struct {
	*quicVersion
	id         string // the keys come of it
	dcid, scid string
	number     uint64
	size       int  // bytes of the packet number, if not 4
	clear      byte // bits of the first byte
	token      string
}

func newClient(v *quicVersion, id string) *quicClient {
	return &quicClient{quicVersion: v, id: id, dcid: id, scid: "client"}
}

func varint(v int) []byte {
	if v < 64 {
		return []byte{byte(v)}
	}
	return binary.BigEndian.AppendUint32(nil, 1<<31|uint32(v))
}

// crypto is a CRYPTO frame.
func crypto(offset int, data []byte) []byte {
	return slices.Concat([]byte{6}, varint(offset), varint(len(data)), data)
}

func (c *quicClient) header(kind byte) []byte {
	b := []byte{(0xc0 | (c.quicVersion.initial+kind)&3<<4) &^ c.clear}
	b = binary.BigEndian.AppendUint32(b, c.quicVersion.number)
	b = append(append(b, byte(len(c.dcid))), c.dcid...)
	return append(append(b, byte(len(c.scid))), c.scid...)
}

// initial is an Initial with the frames.
func (c *quicClient) initial(frames ...[]byte) []byte {
	payload := slices.Concat(append([][]byte{{0, 0, 0}}, frames...)...) // enough for a sample
	if c.size == 0 {
		c.size = 4
	}
	b := c.header(0)
	b[0] |= byte(c.size - 1)
	b = append(append(b, varint(len(c.token))...), c.token...)
	b = append(b, varint(c.size+len(payload)+16)...)
	b = append(b, binary.BigEndian.AppendUint32(nil, uint32(c.number))[4-c.size:]...)
	keys, err := initialKeys(c.quicVersion, c.id, clientSide)
	if err != nil {
		panic(err)
	}
	c.number++
	return keys.seal(b, payload, c.number-1)
}

// other is a packet of another kind: 1 for 0-RTT, 2 for Handshake, 3 for Retry.
func (c *quicClient) other(kind byte) []byte {
	return append(append(c.header(kind), varint(40)...), make([]byte, 40)...)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Appendix A of RFC 9001 and of RFC 9369: the keys of both sides, the client's
// Initial and the server's.
const (
	vectorID    = "\x83\x94\xc8\xf0\x3e\x51\x57\x08"
	vectorHello = "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c" +
		"00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a0008" +
		"0006001d0017001800100007000504616c706e000500050100000000003300260024001d00209370" +
		"b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d00" +
		"10000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffff" +
		"ffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
	vectorAnswer = "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566d" +
		"c5430b9a045a1200130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081" +
		"287c834d5311bcf32bb9da1a002b00020304"
)

var vectors = []struct {
	version              *quicVersion
	clientIV, serverIV   string
	header, masked       string
	tag                  string // authenticates all of the packet
	answerHeader, answer string
}{
	{
		quicV1, "fa044b2f42a3fd3b46fb255c", "0ac1493ca1905853b0bba03e",
		"c300000001088394c8f03e5157080000449e00000002", "c000000001088394c8f03e5157080000449e7b9aec34",
		"e221af44860018ab0856972e194cd934",
		"c1000000010008f067a5502a4262b50040750001",
		"cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb3" +
			"8cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84" +
			"022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee",
	},
	{
		quicV2, "91f73e2351d8fa91660e909f", "dd13c276499c0249d3310652",
		"d36b3343cf088394c8f03e5157080000449e00000002", "d76b3343cf088394c8f03e5157080000449ea0c95e82",
		"a18b2faa745b6fe189cf772a9f84cbfc",
		"d16b3343cf0008f067a5502a4262b50040750001",
		"dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89237bbf872630" +
			"17915358230035f7fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb4cfa52382dd16a393e42757507698075b2" +
			"c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce7ca84bed8521e2e140",
	},
}

// vectorPacket is the client's Initial of a vector, protected.
func vectorPacket(t testing.TB, v *quicVersion, header string) []byte {
	t.Helper()
	keys, err := initialKeys(v, vectorID, clientSide)
	if err != nil {
		t.Fatal(err)
	}
	payload := append(unhex("060040f1"+vectorHello), make([]byte, 917)...)
	return keys.seal(unhex(header), payload, 2)
}

func TestQUICVectors(t *testing.T) {
	for _, v := range vectors {
		packet := vectorPacket(t, v.version, v.header)
		if len(packet) != 1200 || !bytes.HasPrefix(packet, unhex(v.masked)) || !bytes.HasSuffix(packet, unhex(v.tag)) {
			t.Errorf("%#x: the client's Initial is %x", v.version.number, packet)
		}
		if got := reads(t, new(QUIC), packet); got != "example.com" {
			t.Errorf("%#x: %s", v.version.number, got)
		}
		client, _ := initialKeys(v.version, vectorID, clientSide)
		server, _ := initialKeys(v.version, vectorID, serverSide)
		if !bytes.Equal(client.iv, unhex(v.clientIV)) || !bytes.Equal(server.iv, unhex(v.serverIV)) {
			t.Errorf("%#x: %x, %x", v.version.number, client.iv, server.iv)
		}
		if got := server.seal(unhex(v.answerHeader), unhex(vectorAnswer), 1); !bytes.Equal(got, unhex(v.answer)) {
			t.Errorf("%#x: the server's Initial is %x", v.version.number, got)
		}
		if got, number, ok := server.open(unhex(v.answer), 18, 0); !ok || number != 1 || !bytes.Equal(got, unhex(vectorAnswer)) {
			t.Errorf("%#x: the server's Initial opens as %x, %d, %t", v.version.number, got, number, ok)
		}
	}
	for _, c := range []struct {
		low      uint64
		size     int
		expected uint64
		want     uint64
	}{
		{0x9b32, 2, 0xa82f30eb, 0xa82f9b32}, // RFC 9000, A.3
		{0, 1, 0, 0}, {255, 1, 0, 255}, {0, 1, 256, 256}, {1, 1, 255, 257}, {255, 1, 257, 255},
		{200, 1, 300, 200}, {0, 4, 1<<62 - 1, 1<<62 - 1<<32}, {1 << 31, 4, 1, 1 << 31},
	} {
		if got := packetNumber(c.low, c.size, c.expected); got != c.want {
			t.Errorf("%#x of %d bytes near %#x is %#x, want %#x", c.low, c.size, c.expected, got, c.want)
		}
	}
}

// step is a datagram and what is to be read in it.
type step struct {
	datagram []byte
	want     string
}

func steps(want string, datagrams ...[]byte) (s []step) {
	for _, d := range datagrams {
		s = append(s, step{d, "more"})
	}
	s[len(s)-1].want = want
	return s
}

// pieces cuts a message into n CRYPTO frames.
func pieces(message []byte, n int) (frames [][]byte) {
	at := 0
	for i := range n {
		end := len(message) * (i + 1) / n
		frames = append(frames, crypto(at, message[at:end]))
		at = end
	}
	return frames
}

func shuffled(frames [][]byte) [][]byte {
	r := mrand.New(mrand.NewPCG(1, 2))
	r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	return frames
}

func TestQUIC(t *testing.T) {
	m := handshake(sni("a.example"), extension{57, strings.Repeat("p", 300)})
	long := handshake(sni("a.example"), extension{57, strings.Repeat("p", 1<<16-100)})
	second := handshake(sni("b.example"))
	nameless := handshake(extension{57, "p"})
	rtp := append([]byte{0x80, 96}, make([]byte, 1198)...)
	random := append([]byte("\xc3\x12\x34\x56\x78\x08destinat\x06source\x00\x45\x00"), bytes.Repeat([]byte("x"), 1300)...)
	client := func() *quicClient { return newClient(quicV1, "original") }
	// later is a client that the server of the same connection has answered.
	later := func(v *quicVersion) *quicClient {
		return &quicClient{quicVersion: v, id: "original", dcid: "chosen by server", scid: "client", number: 9}
	}
	ack := []byte{2, 5, 0, 1, 0, 0, 0}
	ackECN := []byte{3, 5, 0, 0, 0, 1, 2, 3}
	cases := map[string][]step{
		"whole":          steps("a.example", client().initial(crypto(0, m))),
		"without a name": steps("pass", client().initial(crypto(0, nameless))),
		"bad name":       steps("error", client().initial(crypto(0, handshake(sni("*.example"))))),
		"all frames":     steps("a.example", client().initial(ack, []byte{1, 0, 0}, crypto(0, m[:50]), ackECN, crypto(50, m[50:]), []byte{0x1c, 2, 0, 3, 'b', 'y', 'e'})),
		"odd frame type": steps("a.example", client().initial(append([]byte{0x40}, crypto(0, m)...))),
		"nothing before": {
			{client().initial(), "more"}, {client().initial(crypto(5000, nil)), "more"}, {client().initial(crypto(0, m)), "a.example"},
		},
		"duplicates": {
			{client().initial(crypto(0, m[:99]), crypto(0, m[:99])), "more"}, {client().initial(crypto(0, m[:99])), "more"},
			{client().initial(crypto(50, m[50:])), "a.example"}, {client().initial(crypto(0, m)), "pass"}, {client().initial(crypto(7, m[7:90])), "pass"},
		},
		"conflict":             steps("error", client().initial(crypto(0, m[:99])), client().initial(crypto(5, m[4:9]))),
		"conflict in a packet": steps("error", client().initial(crypto(0, m), crypto(9, []byte("y")))),
		"conflict after the hello": {
			{client().initial(crypto(0, m)), "a.example"}, {client().initial(crypto(0, second)), "error"},
		},
		"gap": {
			{client().initial(crypto(0, m[:99])), "more"}, {client().initial(crypto(100, m[100:])), "more"}, {rtp, "more"}, {nil, "more"},
			{[]byte("\x40short header"), "more"}, {client().initial(crypto(99, m[99:100])), "a.example"}, {rtp, "pass"},
		},
		"too far ahead": steps("error", client().initial(crypto(1<<14-1, []byte("xx")))),
		"far offset":    steps("error", client().initial(append([]byte{6, 0xff}, "\xff\xff\xff\xff\xff\xff\xff\x01x"...))),
		"far enough":    steps("more", client().initial(crypto(1<<14-1, []byte("x")))),

		"retry request": {
			{client().initial(crypto(0, m)), "a.example"}, {later(quicV1).initial(ack), "pass"},
			{later(quicV1).initial(crypto(len(m), second[:60])), "more"}, {later(quicV1).initial(crypto(len(m)+60, second[60:])), "b.example"},
			{later(quicV1).initial(crypto(len(m)+len(second), m)), "error"},
		},
		"second ahead of first": {
			{client().initial(crypto(len(m), second)), "more"}, {client().initial(crypto(0, m)), "a.example b.example"},
		},
		"incomplete second": {
			{client().initial(crypto(0, m)), "a.example"}, {client().initial(crypto(len(m)+30, second[30:])), "more"},
			{newClient(quicV1, "another").initial(crypto(0, second)), "b.example more"},
		},
		"not a hello after": steps("error", client().initial(crypto(0, append(bytes.Clone(m), 11)))),
		"Retry": {
			{client().initial(crypto(0, m)), "a.example"}, {newClient(quicV1, "of the Retry").initial(crypto(0, m)), "a.example"},
			{later(quicV1).initial(ack), "pass"}, {client().initial(crypto(0, m)), "pass"},
		},
		"another version": { // RFC 9368
			{client().initial(crypto(0, m)), "a.example"}, {later(quicV2).initial(ack), "pass"},
			{later(quicV2).initial(crypto(len(m), second)), "b.example"},
		},
		"another version from the start": steps("a.example", newClient(quicV2, "original").initial(crypto(0, m[:99])), client().initial(crypto(99, m[99:]))),
		"another hello by version": {
			{client().initial(crypto(0, m)), "a.example"}, {newClient(quicV2, "original").initial(crypto(0, second)), "error"},
		},
		"token":        steps("a.example", (&quicClient{quicVersion: quicV1, id: "", token: strings.Repeat("t", 500)}).initial(crypto(0, m))),
		"no fixed bit": steps("a.example", (&quicClient{quicVersion: quicV2, id: "original", dcid: "original", clear: fixedBit}).initial(crypto(0, m))),
		"short number": steps("a.example", (&quicClient{quicVersion: quicV1, id: "original", dcid: "original", size: 1}).initial(crypto(0, m))),
		"numbers": {
			{(&quicClient{quicVersion: quicV1, id: "original", dcid: "original", size: 1, number: 200}).initial(crypto(0, m)), "a.example"},
			{(&quicClient{quicVersion: quicV1, id: "original", dcid: "chosen", size: 1, number: 300}).initial(ack), "pass"},
		},
		"wrong key":          steps("error", later(quicV1).initial(crypto(0, m))),
		"wrong key later":    {{client().initial(crypto(0, m)), "a.example"}, {(&quicClient{quicVersion: quicV1, id: "foreign"}).initial(ack), "error"}},
		"long ID":            steps("error", newClient(quicV1, "twenty-one bytes long").initial(crypto(0, m))),
		"Retry of a client":  steps("error", client().other(3)),
		"not a hello":        steps("error", client().initial(crypto(0, []byte{2}))),
		"oversized":          steps("error", client().initial(crypto(0, []byte{1, 2, 4, 1}))),
		"just not oversized": steps("more", client().initial(crypto(0, []byte{1, 2, 4, 0}))),
		"huge datagram":      steps("a.example", client().initial(pieces(long, 9)[:8]...), client().initial(pieces(long, 9)[8])),

		"two hellos":         steps("a.example b.example", append(client().initial(crypto(0, m)), newClient(quicV2, "another").initial(crypto(0, second))...)),
		"two halves":         steps("a.example", append(client().initial(crypto(0, m[:50])), client().initial(crypto(50, m[50:]))...)),
		"coalesced":          steps("a.example", slices.Concat(client().initial(crypto(0, m)), client().other(1), client().other(2), []byte("\x40short\xff\xff"))),
		"Initial at the end": steps("a.example", slices.Concat(client().other(1), client().initial(crypto(0, m)))),
		"zeros after":        steps("a.example", append(client().initial(crypto(0, m)), make([]byte, 900)...)),
		"rubbish after":      steps("error", append(client().initial(crypto(0, m)), 0xff, 0, 0, 0, 1)),
		"version after":      steps("error", append(client().initial(crypto(0, m)), random...)),
		"0-RTT first": {
			{client().other(1), "more"}, {rtp, "more"}, {client().initial(crypto(0, m)), "a.example"}, {client().other(1), "pass"}, {client().other(2), "pass"},
		},
		"0-RTT between": {
			{client().initial(crypto(0, m[:50])), "more"}, {client().other(1), "more"}, {client().initial(crypto(50, m[50:])), "a.example"},
		},

		"version":         steps("error", random),
		"draft 29":        steps("error", []byte("\xc3\xff\x00\x00\x1d\x08destinat\x00\x00\x01x")),
		"draft 99":        steps("pass", []byte("\xc3\xff\x00\x00\x63\x08destinat\x00\x00\x01x")),
		"tinc":            steps("pass", append([]byte("\xff\xff\x00\x00\x1d"), bytes.Repeat([]byte("x"), 1300)...)),
		"RDP":             steps("pass", append([]byte("\xff\xff\xff\xff\x00\x40\x10\x01"), make([]byte, 1224)...)),
		"DNSCrypt":        steps("pass", append([]byte("\xf1\x12\x34\x56\x78\x9a\xbc\xde"), bytes.Repeat([]byte("\xe7"), 1300)...)),
		"Google Q046":     steps("error", []byte("\xc3Q046\x80")),
		"Google T051":     steps("error", []byte("\xc3T051\x80")),
		"Google Q043":     steps("error", []byte("\x0d12345678Q043\x01")),
		"like version 1":  steps("error", append([]byte{0x19}, newClient(quicV1, "...Q043.").other(1)[1:]...)),
		"version later":   {{client().initial(crypto(0, m)), "a.example"}, {random, "error"}},
		"small":           {{random[:1199], "pass"}, {random[:4], "pass"}, {nil, "pass"}, {[]byte("\xc3Q0x6\x80"), "pass"}},
		"negotiation":     steps("pass", append([]byte("\xc3\x00\x00\x00\x00"), make([]byte, 1200)...)),
		"RTP":             steps("pass", rtp),
		"SRTP":            steps("pass", append([]byte("\xb0\xe0\x12\x34\x56\x78"), bytes.Repeat([]byte("x"), 1300)...)),
		"DTLS":            steps("pass", append([]byte("\x16\xfe\xff\x00\x00"), bytes.Repeat([]byte("\xff"), 1300)...)),
		"STUN":            steps("pass", []byte("\x00\x01\x00\x00\x21\x12\xa4\x42\x00\x00\x00\x00")),
		"WireGuard":       steps("pass", append([]byte{1, 0, 0, 0}, make([]byte, 144)...)),
		"short header":    steps("pass", []byte("\x4fshort")),
		"like Google":     steps("pass", []byte("\x0912345678Q0x0\x01")),
		"truncated":       steps("error", client().initial(crypto(0, m))[:300]),
		"no sample":       steps("error", append(append(client().header(0), 0), "\x1312345678901234567890"...)),
		"nothing after":   steps("error", client().header(0)),
		"a long token":    steps("error", append(client().header(0), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)),
		"after an error":  {{[]byte("\xc3\xff\x00\x00\x1d\x08destinat\x00\x00\x01x"), "error"}, {rtp, "error"}, {client().initial(crypto(0, m)), "error"}},
		"closed with gap": steps("more", client().initial(crypto(0, m[:9]), []byte{0x1c, 2, 0, 0})),
	}
	for _, frame := range []string{
		"\x08x", "\x04", "\x07\x01t", "\x1d\x00\x00", "\x1e", "\x10\x00", "\x30x", "\x40\x52", // not in Initials
		"\x02", "\x02\x05\x00\x05\x00", "\x03\x05\x00\x00\x00\x01", "\x02\x05\x00\xff\xff\xff\xff\xff\xff\xff\xff", "\x06\x00\x09x", "\x1c\x02\x00\x09x", "\x40",
	} {
		cases[fmt.Sprintf("frame %x", frame)] = steps("error", client().initial(crypto(0, m), []byte(frame)))
	}
	for n := 2; n <= 5; n++ {
		var inOrder, reverse, interleaved [][]byte
		for _, p := range pieces(m, n) {
			inOrder = append(inOrder, client().initial(p))
			reverse = slices.Insert(reverse, 0, client().initial(p))
		}
		fine := pieces(m, 4*n)
		for i := range n {
			interleaved = append(interleaved, client().initial(fine[3*n+i], fine[i], fine[2*n+i], fine[n+i]))
		}
		cases[fmt.Sprint("split in ", n)] = steps("a.example", inOrder...)
		cases[fmt.Sprint("reverse ", n)] = steps("a.example", reverse...)
		cases[fmt.Sprint("interleaved ", n)] = steps("a.example", interleaved...)
	}
	var bytewise, many, inFull, wide [][]byte
	single := shuffled(pieces(m, len(m)))
	for part := range slices.Chunk(single, 100) {
		bytewise = append(bytewise, client().initial(part...))
	}
	for at := 0; at < len(long); at += 1000 {
		inFull = append(inFull, client().initial(crypto(at, long[at:min(at+1000, len(long))])))
	}
	for i := range maxConnections + 1 {
		many = append(many, newClient(quicV1, fmt.Sprint("number ", i)).initial(crypto(0, m[:9])))
		wide = append(wide, newClient(quicV1, fmt.Sprint("number ", i)).initial(crypto(1<<14-1, m[:1])))
	}
	cases["bytewise"] = steps("a.example", bytewise...)
	cases["of 64 kB"] = steps("a.example", inFull...)
	cases["too many"] = steps("error", many...)
	cases["too many bytes"] = steps("error", wide[:maxStreams>>14+1]...)
	for what, c := range cases {
		var q QUIC
		for i, s := range c {
			if got := reads(t, &q, s.datagram); got != s.want {
				t.Errorf("%s: %s for datagram %d, want %s", what, got, i+1, s.want)
			}
		}
	}
}

// TestQUICDamaged cuts and changes an Initial at every byte: never does it
// show a name, and never does it pass for less than it is.
func TestQUICDamaged(t *testing.T) {
	packet := newClient(quicV1, "original").initial(crypto(0, handshake(sni("a.example"))))
	for i := range packet {
		want := "error"
		if i < 5 {
			want = "pass"
		}
		if got := reads(t, new(QUIC), packet[:i]); got != want {
			t.Errorf("%s after %d bytes", got, i)
		}
		for bit := range 8 {
			damaged := bytes.Clone(packet)
			damaged[i] ^= 1 << bit
			got := reads(t, new(QUIC), damaged)
			other := i == 0 && (bit == 7 || bit == 5 || bit == 4) || i > 0 && i < 5 // another header, type, or version
			if got != "error" && (!other || got != "pass" && got != "more") {
				t.Errorf("%s with bit %d of byte %d changed", got, bit, i)
			}
		}
	}
}

// TestQUICTwoKeys: a packet that is of two connections is of neither.
func TestQUICTwoKeys(t *testing.T) {
	client := newClient(quicV1, "original")
	packet := client.initial(crypto(0, handshake(sni("a.example"))))
	q := QUIC{connections: []*quicConnection{{id: "original"}, {id: "original"}}}
	if _, _, err := q.Read(packet); !errors.Is(err, errKeys) {
		t.Error(err)
	}
}

// TestQUICManyFrames: tiny frames cost no more than their bytes.
func TestQUICManyFrames(t *testing.T) {
	m := handshake(sni("a.example"), extension{57, strings.Repeat("p", 9000)})
	var frames [][]byte
	for i := len(m) - 1; i >= 0; i-- {
		frames = append(frames, crypto(i, m[i:i+1]))
	}
	client := newClient(quicV1, "original")
	packet := client.initial(frames...)
	var q QUIC
	start := time.Now()
	for range 20 {
		if got := reads(t, &q, packet); got != "a.example" && got != "pass" {
			t.Fatal(got)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("%d frames took %v", 20*len(frames), took)
	}
}

// quicRelay is a client's socket with the reader between it and the server,
// used as a proxy uses it: what must wait waits.
type quicRelay struct {
	net.PacketConn
	refuses int // the hello that is refused, counted from one

	mu      sync.Mutex
	q       QUIC
	waiting [][]byte
	names   []policy.Name
	held    int // datagrams that had to wait
	err     error
}
