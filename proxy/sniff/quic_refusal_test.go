package sniff

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestQUICRefusal(t *testing.T) {
	m := handshake(sni("a.example"))
	for _, v := range []*quicVersion{quicV1, quicV2} {
		var q QUIC
		if q.Refusal("no") != nil {
			t.Error("a refusal of nothing")
		}
		first := newClient(quicV1, "original")
		reads(t, &q, first.initial(crypto(0, m)))
		second := &quicClient{quicVersion: v, id: "original", dcid: "chosen", scid: "client"}
		reads(t, &q, append(second.initial(), first.other(1)...))
		for _, reason := range []string{"", "denied by policy", strings.Repeat("long ", 999)} {
			b := q.Refusal(reason)
			p, rest, err := parseLong(b)
			if err != nil || len(rest) > 0 || len(b) > 1200 || !p.initial || p.version != v || p.dcid != "client" || p.scid != "chosen" {
				t.Fatalf("%+v, %v", p, err)
			}
			keys, _ := initialKeys(v, "original", serverSide)
			payload, _, ok := keys.open(p.bytes, p.number, 5)
			want := slices.Concat([]byte{0x1c, 2, 0, byte(0x40 | min(len(reason), 1000)>>8), byte(min(len(reason), 1000))}, []byte(reason[:min(len(reason), 1000)]))
			if !ok || !bytes.Equal(payload, want) {
				t.Errorf("%q, %t", payload, ok)
			}
		}
	}
	// One that is refused for what it has in it hears why as well.
	var q QUIC
	if got := reads(t, &q, newClient(quicV1, "original").initial([]byte{8})); got != "error" || q.Refusal("no") == nil {
		t.Error(got, q.Refusal("no"))
	}
	q = QUIC{}
	if got := reads(t, &q, []byte("\xc3\xff\x00\x00\x1d\x08destinat\x00\x00\x01x")); got != "error" || q.Refusal("no") != nil {
		t.Error(got)
	}
}
