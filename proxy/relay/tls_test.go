package relay

import (
	"crypto/sha256"
	"crypto/tls"
	"strings"
	"testing"

	"appfw/proxy/conntest"
)

// A second ClientHello is judged like the first, whenever it comes; and once the
// server has gone on, nothing is looked at any more.
func TestRelaySecondHello(t *testing.T) {
	const recordHeader = 5
	message := func(name string) []byte {
		return conntest.ClientHello(t, &tls.Config{ServerName: name})[recordHeader:]
	}
	records := conntest.Records
	hello := func(name string) string { return string(records(message(name), 1<<14)) }
	server := func(random string) string {
		return string(records([]byte("\x02\x00\x00\x26\x03\x03"+random+"\x00\x13\x01\x00"), 1<<14))
	}
	helloRetry := sha256.Sum256([]byte("HelloRetryRequest")) // RFC 8446, 4.1.3
	good, evil := hello("a.example"), hello("b.example")
	retry, final := server(string(helloRetry[:])), server(strings.Repeat("r", 32))
	const cipherChange, early = "\x14\x03\x03\x00\x01\x01", "\x17\x03\x03\x00\x05early"
	anything := early + "\x16\x03\x03\x00\x04\x01xyz" + evil + "GET / HTTP/1.1\r\n\r\n"
	for what, c := range map[string]conversation{
		"retry, same name":      {">" + good, "<" + retry + cipherChange, ">" + cipherChange + good, "<" + final, ">" + anything},
		"retry, other name":     {">" + good, "<" + retry, ">" + cipherChange, "!" + evil},
		"no retry":              {">" + good, "<" + final, ">" + anything},
		"at once":               {">" + good, "!" + evil},
		"after early data":      {">" + good + early + early, "<" + retry, ">" + early, "!" + evil},
		"in pieces":             {">" + good, "<" + retry, "!" + string(records(message("b.example"), 7))},
		"in pieces, same name":  {">" + good, "<" + retry, ">" + string(records(message("a.example"), 7)), ">" + anything},
		"in the same record":    {"!" + string(records(append(message("a.example"), message("b.example")...), 1<<14))},
		"answer in pieces":      {">" + good, "<" + string(records([]byte("\x02\x00\x00\x26\x03\x03"+string(helloRetry[:])+"\x00\x13\x01\x00"), 20)), "!" + evil},
		"answer trickles":       {">" + good, "<" + retry[:10], "<" + retry[10:], "!" + evil},
		"the server spoke":      {"<" + final, ">" + good, "<" + retry, "!" + evil},
		"no record":             {">" + good, "<" + retry, "!GET / HTTP/1.1\r\n\r\n"},
		"TLS 1.2 goes on":       {">" + good, "<" + final, ">\x16\x03\x03\x00\x05\x10\x00\x00\x01x" + cipherChange},
		"answered by an alert":  {">" + good, "<\x15\x03\x03\x00\x02\x02\x28", ">\x15\x03\x03\x00\x02\x01\x00"},
		"large early data":      {">" + good, ">" + strings.Repeat("\x17\x03\x03\x40\x00"+strings.Repeat("x", 1<<14), 8), "<" + retry, "!" + evil},
		"a request in records":  {">" + good, "!\x17\x03\x03\x00\x19\r\nX: y\r\nHost: b.example\r\n"},
		"early record too long": {">" + good, "!\x17\x03\x03\xff\xff"},
	} {
		t.Run(what, func(t *testing.T) { c.run(t, what) })
	}
}
