package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"appfw/proxy/conntest"
)

// hello and records are what the tests are about, in a word.
var hello, records = conntest.ClientHello, conntest.Records

// outcome is what Identify made of some bytes, in a word: the name, "none",
// "more", or "error".
func outcome(b []byte, eof bool) string {
	name, state, err := Identify(b, eof)
	switch {
	case err != nil:
		return "error"
	case state == Named:
		return string(name)
	case state == Nameless:
		return "none"
	case state == Watched:
		return watched(b, eof)
	}
	return "more"
}

// watched is what Lines make of bytes, in a word as well.
func watched(b []byte, eof bool) string {
	_, name, state, err := new(Lines).Read(b, eof)
	switch {
	case err != nil:
		return "error"
	case state == Named:
		return string(name)
	case state == Nameless:
		return "none"
	}
	return "watched"
}

// passes is how many bytes may go on of those of which Identify needs more.
func passes(b []byte) int {
	var o Opening
	if _, state, err := o.Identify(b, false); state != NeedMore || err != nil {
		return 0
	}
	return o.Pass()
}

type extension struct {
	kind uint16
	data string
}

func sni(names ...string) extension {
	list := ""
	for _, n := range names {
		list += "\x00" + string(binary.BigEndian.AppendUint16(nil, uint16(len(n)))) + n
	}
	return extension{0, string(binary.BigEndian.AppendUint16(nil, uint16(len(list)))) + list}
}

// handshake is a ClientHello message with the extensions.
func handshake(extensions ...extension) []byte {
	var ext []byte
	for _, e := range extensions {
		ext = binary.BigEndian.AppendUint16(ext, e.kind)
		ext = binary.BigEndian.AppendUint16(ext, uint16(len(e.data)))
		ext = append(ext, e.data...)
	}
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, "\x02ss\x00\x04\x0a\x0a\x13\x01\x01\x00"...)
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(ext))), ext...)
	return append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// everySplit asserts that a message shows nothing until it is complete, and
// then the same whatever follows.
func everySplit(t *testing.T, what string, b []byte, want string) {
	t.Helper()
	for i := 1; i < len(b); i++ {
		if got := outcome(b[:i], false); got != "more" || passes(b[:i]) > 0 {
			t.Errorf("%s: %q after %d of %d bytes, of which pass: %d", what, got, i, len(b), passes(b[:i]))
			return
		}
		if got := outcome(b[:i], true); got != "error" {
			t.Errorf("%s: %q at an end after %d of %d bytes", what, got, i, len(b))
			return
		}
	}
	for _, rest := range []string{"", "\x00", "\x16\x03\x01", "\x17\x03\x03\x00\x01x"} {
		if got := outcome(append(b[:len(b):len(b)], rest...), false); got != want {
			t.Errorf("%s and %q: %q, want %q", what, rest, got, want)
		}
	}
}

func TestIdentifyTLS(t *testing.T) {
	var protos []string
	for i := range 200 {
		protos = append(protos, fmt.Sprintf("protocol-%d", i))
	}
	for what, config := range map[string]*tls.Config{
		"default": {}, "TLS 1.2": {MaxVersion: tls.VersionTLS12}, "small": {CurvePreferences: []tls.CurveID{tls.X25519}}, "large": {NextProtos: protos},
	} {
		config.ServerName = "Good.Example"
		everySplit(t, what, hello(t, config), "good.example")
	}
	everySplit(t, "no name", hello(t, &tls.Config{}), "none")
	grease := extension{0x0a0a, "x"}
	for _, c := range []struct {
		what string
		ext  []extension
		want string
	}{
		{"plain", []extension{sni("a.example")}, "a.example"},
		{"among others", []extension{grease, {0xfe0d, "ech"}, sni("a.example"), {0xfafa, ""}}, "a.example"},
		{"upper case", []extension{sni("A.EXAMPLE")}, "a.example"},
		{"trailing dot", []extension{sni("a.example.")}, "a.example"},
		{"two dots", []extension{sni("a.example..")}, "error"},
		{"none", []extension{grease}, "none"},
		{"twice", []extension{sni("a.example"), sni("b.example")}, "error"},
		{"twice the same", []extension{sni("a.example"), grease, sni("a.example")}, "error"},
		{"two names", []extension{sni("a.example", "b.example")}, "error"},
		{"no names", []extension{sni()}, "error"},
		{"empty name", []extension{sni("")}, "error"},
		{"empty extension", []extension{{0, ""}}, "error"},
		{"other type", []extension{{0, "\x00\x04\x01\x00\x01a"}}, "error"},
		{"list too short", []extension{{0, "\x00\x04\x00\x00\x05a.com"}}, "error"},
		{"list too long", []extension{{0, "\x00\x09\x00\x00\x05a.com"}}, "error"},
		{"after the list", []extension{{0, "\x00\x04\x00\x00\x01ax"}}, "error"},
		{"IPv4", []extension{sni("192.0.2.1")}, "none"},
		{"IPv6", []extension{sni("2001:db8::1")}, "none"},
		{"IPv6 in brackets", []extension{sni("[2001:db8::1]")}, "none"},
		{"IPv6 with a zone", []extension{sni("fe80::1%a.example")}, "error"},
		{"port", []extension{sni("a.example:443")}, "error"},
		{"address with a port", []extension{sni("192.0.2.1:443")}, "error"},
		{"NUL", []extension{sni("a.example\x00.evil.example")}, "error"},
		{"wildcard", []extension{sni("*.example")}, "error"},
		{"space", []extension{sni(" a.example")}, "error"},
		{"UTF-8", []extension{sni("ä.example")}, "error"},
		{"long", []extension{sni(strings.Repeat("a.", 150) + "example")}, "error"},
	} {
		m := handshake(c.ext...)
		for _, size := range []int{1 << 14, 40, 1} {
			everySplit(t, c.what, records(m, size), c.want)
		}
	}
	big := handshake(extension{21, strings.Repeat("\x00", 60000)}, sni("a.example"))
	if got := outcome(records(big, 1<<14), false); got != "a.example" {
		t.Errorf("a ClientHello of 60 kB: %s", got)
	}
	good := records(handshake(sni("a.example")), 1<<14)
	edit := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	for what, c := range map[string]struct {
		b    []byte
		want string
	}{
		// crypto/tls takes any version below 16.0, and warnings ahead.
		"odd version":          {edit(func(b []byte) []byte { b[1] = 4; return b }), "a.example"},
		"no version":           {edit(func(b []byte) []byte { b[1] = 0; return b }), "a.example"},
		"far version":          {edit(func(b []byte) []byte { b[1] = 16; return b }), "a.example"},
		"farthest version":     {edit(func(b []byte) []byte { b[1], b[2] = 255, 255; return b }), "a.example"},
		"odd, not a hello":     {[]byte("\x16\x00\x00\x01\x85\xa6\xff"), "more"}, // a login of MySQL
		"all of it":            {[]byte("\x16\x00\x00\x01\x85\xa6\xff" + strings.Repeat("\x00", 400)), "more"},
		"MongoDB":              {[]byte("\x16\x03\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00"), "error"},
		"odd, may be a hello":  {[]byte("\x16\x00\x00\x01\x85"), "more"},
		"warning ahead":        {append([]byte{21, 3, 1, 0, 2, 1, 90}, good...), "error"},
		"odd warning ahead":    {append([]byte{21, 9, 9, 0, 2, 1, 0}, good...), "error"},
		"cipher change ahead":  {append([]byte{20, 3, 3, 0, 1, 1}, good...), "error"},
		"other 21":             {[]byte("\x15\x00\x00\x01\x85\xa6"), "more"},
		"other 20":             {[]byte("\x14 is no record"), "more"},
		"application data":     {[]byte("\x17\x03\x03\x00\x10x"), "more"},
		"empty cipher change":  {append([]byte{20, 3, 1, 0, 0}, good...), "error"},
		"empty alert, alone":   {[]byte{21, 3, 4, 0, 0}, "more"},
		"empty records ahead":  {append([]byte{22, 3, 1, 0, 0, 22, 3, 1, 0, 0}, good...), "error"},
		"hello request ahead":  {append([]byte{22, 3, 1, 0, 4, 0, 0, 0, 0}, good...), "error"},
		"hello of no size":     {append([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, good...), "error"},
		"odd records ahead":    {append([]byte{23, 99, 0, 0, 1, 0, 24, 0, 0, 0, 0}, good...), "error"},
		"records without end":  {bytes.Repeat([]byte{21, 3, 1, 0, 2, 1, 90}, 10000), "error"},
		"a request as well":    {records(handshake(sni("a.example"), extension{21, " / HTTP/1.1\r\nX: y\r\n"}), 1<<14), "error"},
		"a Host as well":       {records(handshake(sni("a.example"), extension{21, " / y\r\nHost: b\r\n"}), 1<<14), "error"},
		"a request of type 22": {[]byte("\x16\x03 / HTTP/1.1\r\nHost: b\r\n"), "error"},
		"Host after type 20":   {[]byte("\x14 / x\r\nHost: b\r\n"), "error"},
		"heartbeat ahead":      {append([]byte{24, 3, 3, 0, 1, 1}, good...), "error"},
		"Minecraft":            {[]byte("\x15\x00\xfb\x05\x0emc.example.com\x63\xdd\x02"), "more"},
		"other 24":             {[]byte("\x18\x03 is no record"), "more"},
		"empty record":         {[]byte{22, 3, 1, 0, 0}, "more"},
		"record too long":      {[]byte{22, 3, 1, 0x40, 1, 1, 0, 1, 0}, "error"},
		"server hello":         {edit(func(b []byte) []byte { b[5] = 2; return b }), "more"},
		"message too long":     {edit(func(b []byte) []byte { b[6] = 3; return b }), "error"},
		"alert between":        {append(records(handshake(sni("a.example"))[:20], 9)[:14], 21, 3, 1, 0, 2, 1, 0), "error"},
		"session too long":     {edit(func(b []byte) []byte { b[43] = 200; return b }), "error"},
		"extensions too long":  {edit(func(b []byte) []byte { b[54]++; b[55]++; return b }), "error"},
		"bytes after":          {edit(func(b []byte) []byte { b[4]++; b[8]++; return append(b, 0) }), "error"},
		"no extensions at all": {records(append([]byte{1, 0, 0, 41, 3, 3}, []byte(strings.Repeat("\x00", 33)+"\x00\x02\x13\x01\x01\x00")...), 99), "none"},
	} {
		if got := outcome(c.b, false); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func TestIdentifyHTTP(t *testing.T) {
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost:" + host + "\r\n\r\n" }
	for in, want := range map[string]string{
		get(" a.example"): "a.example", get("a.example"): "a.example", get("\t A.Example. \t"): "a.example",
		get(" a.example:8080"): "a.example", get(" a.example:"): "a.example", get(" a.example:x"): "error",
		get(" a.example:123456"): "error", get(" a.example:1:2"): "error", get(" :80"): "error",
		get(" 192.0.2.1"): "none", get(" 192.0.2.1:80"): "none", get(" [2001:db8::1]"): "none", get(" [2001:db8::1]:80"): "none",
		get(" [2001:db8::1"): "error", get(" [192.0.2.1]"): "error", get(" [a.example]"): "error", get(" 2001:db8::1"): "error",
		get(" [::1]x"): "error", get(" 127.1"): "error", get(" 0x7f000001"): "error", get(""): "none", get(" a b"): "error",
		get(" a.example,b.example"): "error", get(" u@a.example"): "error", get(" a.example/x"): "error",
		get(" a.example\x00"): "error", get(" a\x00.example"): "error", get(" ä.example"): "error",
		get(" a.example\r\nHost: b.example"): "error", get(" a.example\r\nhOST: a.example"): "error",
		get(" a.example\r\n folded"): "error", get(" a.example\r\nX: y\r\n folded"): "a.example", get(" a.example\nX: y"): "error", get(" a.example\rX: y"): "error",
		get(" a.example\r\nX y"): "error", get(" a.example\r\n: y"): "error", get(" a.example\r\nX: \x00"): "error",
		get(" a.example\r\nX-Host: b.example\r\nX: ä"): "a.example",

		"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n":                                    "error",
		"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n":                                    "error",
		"GET / HTTP/1.1\r\n\r\n":                                                        "none",
		"GET / HTTP/1.1\r\n\nHost: a.example\r\n\r\n":                                   "error",
		"GET / HTTP/1.1\r\nHost: a.example\r\n\nHost: b.example\r\n\r\n":                "error",
		"GET / HTTP/1.1\nHost: a.example\r\n\r\n":                                       "error",
		"GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n":                                   "error",
		"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                     "error",
		"GET http://A.example./x?y HTTP/1.1\r\nHost: a.example:80\r\n\r\n":              "a.example",
		"GET http://a.example?x HTTP/1.0\r\n\r\n":                                       "a.example",
		"GET http://192.0.2.1/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                     "error",
		"GET http://a.example/ HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n":                     "error",
		"GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n":                               "error",
		"GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n":                             "error",
		"GET http://u@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                   "error",
		"GET http://a.example\\@b.example/ HTTP/1.1\r\n\r\n":                            "error",
		"GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n":                             "error",
		"GET //b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n":                          "a.example",
		"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n":                                 "a.example",
		"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n":                     "a.example",
		"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n":                     "error",
		"CONNECT 192.0.2.1:443 HTTP/1.1\r\n\r\n":                                        "none",
		"PRI * HTTP/2.0\r\n":                                                            "error",
		"get / HTTP/1.1\r\nHost: a.example\r\n\r\n":                                     "a.example",
		"M-SEARCH * HTTP/1.1\r\nHost: a.example\r\n\r\n":                                "a.example",
		"GET / HTTP/1.2\r\n":                                                            "error",
		"GET / HTTP/2.0\r\n":                                                            "error",
		"GET / http/1.1\r\n":                                                            "error",
		"FOO / Http/1.1\r\n":                                                            "error",
		"GET /\r\n":                                                                     "watched",
		"GET /\n":                                                                       "watched",
		"GET / RTSP/1.0\r\n":                                                            "watched",
		"GET  / HTTP/1.1\r\n":                                                           "error",
		"GET / HTTP/1.1 \r\n":                                                           "error",
		"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n":                             "a.example",
		"\n" + get("a.example"):                                                         "a.example",
		" " + get("a.example"):                                                          "error",
		"\r\n\t" + get("a.example"):                                                     "error",
		"GET\t/\tHTTP/1.1\r\n":                                                          "error", // words parted as by Python's http.server
		"GET\xa0/\xa0HTTP/1.1\r\n":                                                      "error",
		"GET\x1d/\x1dHTTP/1.1\r\n":                                                      "error",
		"GET /\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n":                                 "error",
		"GET /\x7f HTTP/1.1\r\nHost: a.example\r\n\r\n":                                 "error",
		"GET /ä HTTP/1.1\r\nHost: a.example\r\n\r\n":                                    "a.example",
		"GET / HTTP/1.1\r\n" + strings.Repeat("X: yyyy\r\n", 1<<15):                     "error",
		"GET /" + strings.Repeat("a", 1<<16) + " HTTP/1.1\r\nHost: a\r\n\r\n":           "a",
		"GET /\u0085 HTTP/1.1\r\nHost: a\r\nX: \u0085\r\n\r\n":                          "a",
		"GET / HTTP/1.1\r\nHost: a\r\nX: \u0085 host: b\r\n\r\n":                        "error",
		"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\tw: v\r\n\r\n":                     "a",
		"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 5\r\n\r\n":               "error",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n 5\r\n\r\n":                  "error",
		"GET / HTTP/1.1\r\n y\r\nHost: a\r\n\r\n":                                       "error",
		"GET / HTTP/1.1\r\nHost: [::%a,b,]\r\n\r\n":                                     "error",
		"GET //b/?://c HTTP/1.1\r\nHost: a\r\n\r\n":                                     "error",
		"GET //b/ HTTP/1.1\r\n\r\n":                                                     "error",
		"GET 1x://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                       "error",
		"GET b;x://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                      "error",
		"GET b;//a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                        "error",
		"GET http://a#@b/ HTTP/1.1\r\nHost: a\r\n\r\n":                                  "error",
		"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n":                                           "error",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n":  "a",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n": "error",

		"PROXY TCP4 9.9.9.9 9.9.9.9 1 2\r\n" + get("a.example"): "error", proxySignature + "\x21\x11": "error",

		// What some servers skip or take: any byte for a method, or ahead of one.
		"\" / HTTP/1.1\r\nHost: b\r\n\r\n": "error", "\xff\x01 / HTTP/1.1\r\n": "error", "\x00 / HTTP/1.1\r\n": "error", "[]\t/ HTTP/1.1\n": "error",
		"GET / x HTTP/1.1\r\n": "error", "X HTTP/1.1\r\n": "error", "a b HTTP/1.1 c\r\n": "error", "a b c hTTp/9\r\n": "error",
		// Or any line for its end.
		"GET / HTTP/1.1\rHost: b\r\r": "more", "GET /\rHost: b\r\n": "error", "X\x0bHost: b\r\n": "error", "X y\r\nZ\x85 Host: b\r\n": "error",
		"X y\nHost: b\n": "error", "X y\r\n\x00Host: b\r\n": "error", "X y\r\n Host: b\r\n": "error", "X y\r\nhost\x01: b\r\n": "error",
		"X y\r\nHost: b\r\n c\r\n": "b", "X y\r\nHost:\r\n": "error", "X y\r\nHost: " + strings.Repeat("b", 9000): "error",
		"X http://b/\r\n": "b", "X http://b/\n": "error", "X //b/\r\n": "error", "GET x//b\r\n": "error", "CONNECT b:80\r\n": "error", "X\x01http://b/\r\n": "watched",
		"GET\r//b/ c\r\n": "error", "x\rGET http://b/ c\r\n": "error", "PUT x\x00 //b\r\n": "error",
		"\x00 http://b/ HTTP/1.1\r\r": "more", "\x00 http://b/ HTTP/1.1\r\n": "error", "PRI * HTTP/2.0\n": "error",
		"X y\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n": "error", "\x00\r\nHost: b\r\n": "none",

		// Other protocols that name the host.
		"DESCRIBE / RTSP/1.0\r\nHost: b\r\n\r\n": "b", "OPTIONS rtsp://b:554/x RTSP/1.0\r\nCSeq: 1\r\n\r\n": "b", "PROPFIND /\r\nHost: b\r\n\r\n": "b",
		"REQMOD icap://b/x ICAP/1.0\r\nHost: b\r\n\r\n": "b", "QUERY http://b/\r\n": "b", "PRI  //b/\n": "error", "DESCRIBE rtsp://[::1]/ RTSP/1.0\r\n\r\n": "none",

		// And those that do not.
		"SOURCE / ICE/1.0\r\n": "watched", "M-SEARCH *\r\n": "watched", "REGISTER sip:b SIP/2.0\r\nTo: <sip:a@b>\r\n\r\n": "none",
		"REQMOD /x ICAP/1.0\r\nConnection: keep-alive\r\n\r\n": "watched", "CONNECT {\"url\":\"nats:/b\"}\r\nPING\r\n": "watched",
		"\r\n\r\n\x00\r\nQUITE": "none", "0033git-upload-pack /x\x00host=a\x000032want /\n": "none", "USER a 0 * :b\r\n": "watched", "get /key\r\n": "watched",
		"EHLO x\r\n": "watched", "NICK a\r\n": "watched", "SSH-2.0-x\r\n": "watched", "USER a\nGET / HTTP/1.1\r\n": "watched", "GET\r\n": "watched",
		"*1\r\n$4\r\nPING\r\n": "watched", "get key\r\n": "watched", "a1 CAPABILITY\r\n": "watched", "\x00\x00\x00\x08\x04\xd2\x16\x2f": "more",
		"\x80": "more", "(": "more", "\x21\x00\x00\x01": "more", "\x20\x00\x00\x01": "more", "X\x00HTTP/1.1\r\n": "none",
		"127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET http://b/ HTTP/1.0\" 200 2326\n": "watched", "83 <34>1 2003-10-11T22:14:15Z host app - - GET http://b/ HTTP/1.1.": "more",
		strings.Repeat("a", 1<<16): "none", strings.Repeat("word ", 1<<14): "none", "WORD " + strings.Repeat("a", 1<<16): "none", "GET /" + strings.Repeat("a", 1<<16): "watched",
		strings.Repeat("\r\n", 1<<15): "watched",
		"":                            "more", "\r\n": "more", "E": "more", "EHLO x": "more", "GET / HTTP/1.1": "more", "GET / HTTP/1.1\r\nHost: a.example\r\n": "more",
	} {
		short := fmt.Sprintf("%.60q", in)
		if got := outcome([]byte(in), false); got != want {
			t.Errorf("%s: %s, want %s", short, got, want)
		}
		if step := max(1, len(in)/300); want != "more" {
			for i := 0; i < len(in); i += step {
				if got := outcome([]byte(in[:i]), false); got != "more" && got != "watched" && got != want {
					t.Errorf("%s: %s after %d bytes, then %s", short, got, i, want)
					break
				}
			}
		}
	}
	for in, want := range map[string]struct {
		eof    string
		passes int
	}{
		"": {"none", 0}, "\r\n": {"none", 2}, "EHLO x": {"none", 6}, "GET": {"none", 3},
		"GET /": {"none", 5}, "FOO / HTTP/1.1": {"none", 14}, "\r\nGET / HTTP/1.1": {"none", 16}, "GET http://a": {"error", 10},
		"GET / HTTP/1.1\r\n": {"error", 0}, "\r\nGET / HTTP/1.1\r\nHost: a\r\n": {"error", 0},
		"GET / HTTP/1.1\rHost: b\r\r": {"error", 19}, "CONNECT b:80": {"error", 8},
	} {
		if got := outcome([]byte(in), true); got != want.eof || passes([]byte(in)) != want.passes {
			t.Errorf("%q at its end: %s, of which pass: %d", in, got, passes([]byte(in)))
		}
	}
	if _, _, err := Identify([]byte(get(" ["+strings.Repeat("x", 1<<15))), false); err == nil || len(err.Error()) > 200 {
		t.Error("an error as long as the app likes it")
	}
}

func TestHostName(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a", "A.b.": "a.b", "a:1": "a", "a:": "a", "a_b.c:443": "a_b.c", "1.2.3.4": "", "1.2.3.4:5": "", "[::1]": "", "[::ffff:1.2.3.4]:5": "",
		"": "error", ".": "error", ":": "error", "a:-1": "error", "a: 1": "error", "a:+1": "error", "[]": "error", "[::1": "error", "[::1]1": "error",
		"::1": "error", "1.2.3": "error", "0x1.a.0x2": "error", "%61": "error", "a..b": "error", "*": "error",
	} {
		name, _, err := HostName(in)
		if got := string(name); err != nil && want != "error" || err == nil && got != want {
			t.Errorf("%q: %q, %v, want %s", in, got, err, want)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	for what, in := range map[string][]byte{
		"TLS":  hello(b, &tls.Config{ServerName: "registry.example.org"}),
		"HTTP": []byte("GET /index.html HTTP/1.1\r\nHost: registry.example.org\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n"),
	} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if _, s, _ := Identify(in, false); s != Named {
					b.Fatal(s)
				}
			}
		})
	}
}
