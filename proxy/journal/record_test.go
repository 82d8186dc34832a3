package journal

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"appfw/dnsguard"
	"appfw/policy"
)

// noon is when all happens in these tests.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 500_000_000, time.UTC)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// rule is what a rule for example.com says of it.
func rule(t testing.TB, word, arg string) policy.Verdict {
	t.Helper()
	p, err := policy.Compile(policy.Config{Lines: []policy.Line{{Word: word, Arg: arg, Pos: policy.Pos{File: "some.policy", Line: 3}}}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Decide(policy.Flow{Proto: policy.TCP, Port: 443, Name: "example.com", Pinned: true})
}

// Golden lines: to change one is to change what others read.
func TestRecords(t *testing.T) {
	allowed, denied := rule(t, "allow", "example.com"), rule(t, "deny", "example.com")
	none := policy.Denial("no rule allows it")
	for _, tt := range []struct {
		item item
		want string
	}{
		{item{flow: Event{Flow: 7, Verdict: allowed, Proto: "tcp", Dst: at("192.0.2.1:443"), Name: "example.com"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"192.0.2.1","port":443,"name":"example.com",
			"rule":"allow example.com (some.policy:3)","reason":"the rule allow example.com (some.policy:3) allows it","flow":7,"run":"r"}`},
		{item{flow: Event{
			Flow: 7, Closed: true, Verdict: allowed, Proto: "tcp", Dst: at("[2001:db8::1]:443"), Name: "example.com", End: Done,
			Sent: 5, Received: 1 << 40, Duration: 1500 * time.Millisecond,
		}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"close","verdict":"allow","direction":"out","proto":"tcp","addr":"2001:db8::1","port":443,"name":"example.com",
			"rule":"allow example.com (some.policy:3)","reason":"the rule allow example.com (some.policy:3) allows it",
			"sent":5,"received":1099511627776,"duration_ms":1500,"end":"done","flow":7,"run":"r"}`},
		{item{flow: Event{Flow: 8, Closed: true, Verdict: allowed.Because("it is so; connecting failed: refused"), Proto: "tcp", Dst: at("192.0.2.1:443"), End: Failed, Failed: "refused"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"close","verdict":"allow","direction":"out","proto":"tcp","addr":"192.0.2.1","port":443,
			"rule":"allow example.com (some.policy:3)","reason":"it is so; connecting failed: refused","error":"refused",
			"sent":0,"received":0,"duration_ms":0,"end":"failed","flow":8,"run":"r"}`},
		{item{count: 12, flow: Event{Flow: 9, Verdict: denied, Proto: "udp", Dst: at("192.0.2.1:53"), Name: "example.com"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"deny","direction":"out","proto":"udp","addr":"192.0.2.1","port":53,"name":"example.com",
			"rule":"deny example.com (some.policy:3)","reason":"the rule deny example.com (some.policy:3) denies it","count":12,"flow":9,"run":"r"}`},
		{item{count: 1, flow: Event{Verdict: none, Proto: "icmp", Dst: at("192.0.2.1:0")}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"deny","direction":"out","proto":"icmp","addr":"192.0.2.1","reason":"no rule allows it","run":"r"}`},
		{item{flow: Event{Verdict: none, Proto: "tcp", Dst: at("203.0.113.9:8080"), Ingress: true, Client: "203.0.113.9:4711"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"deny","direction":"in","proto":"tcp","addr":"203.0.113.9","port":8080,
			"client":"203.0.113.9:4711","reason":"no rule allows it","run":"r"}`},
		{item{flow: Event{Verdict: none, Proto: "tcp", Client: "[::1]:4711", User: "<a> & \"b\"\\"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"deny","direction":"out","proto":"tcp",
			"client":"[::1]:4711","user":"\u003ca\u003e \u0026 \"b\"\\","reason":"no rule allows it","run":"r"}`},
		{item{flow: Event{Verdict: none, Proto: "tcp", Dst: netip.AddrPortFrom(netip.Addr{}, 80), Name: "a\x00\x1b[2J\n\x7f\u0085\u202e\u2028é世\U0001f600\U000e0041\xff"}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"decision","verdict":"deny","direction":"out","proto":"tcp","port":80,
			"name":"a\u0000\u001b[2J\n\u007f\u0085\u202e\u2028é世😀\udb40\udc41\ufffd","reason":"no rule allows it","run":"r"}`},
		{item{kind: ofQuestion, question: dnsguard.Question{Name: "example.com", Type: "A", Verdict: allowed, Addrs: []netip.Addr{at("192.0.2.1:1").Addr(), at("192.0.2.2:1").Addr()}}}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"dns","verdict":"allow","direction":"out","addr":"192.0.2.1,192.0.2.2","name":"example.com","type":"A",
			"rule":"allow example.com (some.policy:3)","reason":"the rule allow example.com (some.policy:3) allows it","run":"r"}`},
		{item{kind: ofReload, text: "the policy was read anew"}, `
			{"time":"2026-01-02T12:00:00.5Z","event":"reload","reason":"the policy was read anew","run":"r"}`},
	} {
		tt.item.at = noon
		rec, ok := tt.item.record()
		rec.Run = "r"
		line, err := rec.line()
		if want := strings.NewReplacer("\n\t\t\t", "").Replace(tt.want) + "\n"; !ok || err != nil || string(line) != want {
			t.Errorf("%v, %v\n%s not\n%s", ok, err, line, want)
		}
	}
	for _, kind := range []kind{ofNote, ofWords, ofReopen} {
		if rec, ok := (&item{kind: kind}).record(); ok {
			t.Errorf("kind %d is in the log: %v", kind, rec)
		}
	}
	var lines string
	for _, rec := range (lost{3, 1}).records(noon) {
		line, _ := rec.line()
		lines += string(line)
	}
	if want := `{"time":"2026-01-02T12:00:00.5Z","event":"dropped","verdict":"deny","reason":"they came faster than they were written","count":3}
{"time":"2026-01-02T12:00:00.5Z","event":"dropped","reason":"they came faster than they were written","count":1}
`; lines != want {
		t.Errorf("%s not\n%s", lines, want)
	}
}

// A verdict that goes out by an upstream says which; the one without a name has one here.
func TestRecordVia(t *testing.T) {
	for via, want := range map[string]string{policy.Direct: "", policy.Default: defaultVia, "office": "office"} {
		v := policy.Verdict{Action: policy.Allow, Via: via}
		if got := (&Event{Verdict: v}).record(noon).Via; got != want {
			t.Errorf("%q: %q, not %q", via, got, want)
		}
		if got := (&Event{Verdict: v, Ingress: true}).record(noon).Via; got != "" {
			t.Errorf("%q, coming in: %q", via, got)
		}
	}
}

// The fields that there were before others stay first, in their order; those of all
// records are last.
func TestRecordOrder(t *testing.T) {
	var names []string
	for field := range reflect.TypeFor[Record]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	first := []string{
		"time", "event", "verdict", "direction", "proto", "addr", "port", "name", "client", "user", "type", "via", "rule", "reason", "error",
		"sent", "received", "duration_ms",
	}
	last := []string{"flow", "run"}
	if !slices.Equal(names[:len(first)], first) || !slices.Equal(names[len(names)-len(last):], last) {
		t.Errorf("the order is %v", names)
	}
}

func TestFields(t *testing.T) {
	rec := (&Event{Flow: 12_345_678, Verdict: policy.Denial("no rule allows it"), Proto: "tcp", Dst: at("192.0.2.1:443"), Name: "example.com"}).record(noon)
	rec.Run, rec.Duration = "r", new(int64(1_000_000))
	want := map[string]string{
		"APPFW_EVENT": "decision", "APPFW_VERDICT": "deny", "APPFW_DIRECTION": "out", "APPFW_PROTO": "tcp", "APPFW_ADDR": "192.0.2.1",
		"APPFW_PORT": "443", "APPFW_NAME": "example.com", "APPFW_REASON": "no rule allows it", "APPFW_DURATION_MS": "1000000", "APPFW_FLOW": "12345678", "APPFW_RUN": "r",
	}
	if got := rec.fields(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}

func TestWhat(t *testing.T) {
	for want, e := range map[string]Event{
		"tcp 192.0.2.1:443":                    {Proto: "tcp", Dst: at("192.0.2.1:443")},
		"tcp [2001:db8::1]:443":                {Proto: "tcp", Dst: at("[2001:db8::1]:443")},
		"udp example.com:53":                   {Proto: "udp", Dst: at("192.0.2.1:53"), Name: "example.com"},
		"icmp 192.0.2.1":                       {Proto: "icmp", Dst: at("192.0.2.1:0")},
		"icmp example.com":                     {Proto: "icmp", Dst: at("192.0.2.1:0"), Name: "example.com"},
		"47 packet":                            {Proto: "47"},
		"tcp example.com:443 for joe":          {Proto: "tcp", Dst: at("192.0.2.1:443"), Name: "example.com", User: "joe"},
		"tcp from 203.0.113.9 to port 80":      {Proto: "tcp", Dst: at("203.0.113.9:80"), Ingress: true, Client: "203.0.113.9:4711"},
		"client 127.0.0.1":                     {Proto: "tcp", Client: "127.0.0.1:4711"},
		"client unix":                          {Proto: "tcp", Client: "unix"},
		"tcp example.com:443 for \x1b[31m\xff": {Proto: "tcp", Dst: at("192.0.2.1:443"), Name: "example.com", User: "\x1b[31m\xff"},
	} {
		if got := e.What(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// Any record is one line of valid JSON that a terminal can show, with what was said;
// any line for people can be shown, too.
func FuzzRecord(f *testing.F) {
	f.Add(uint8(0), uint8(0), "tcp", "example.com", "127.0.0.1:80", "joe", "no rule allows it", "A", []byte{192, 0, 2, 1}, uint16(80), int64(5), int64(1e18))
	f.Add(uint8(1), uint8(3), "udp", "a\x1b[2J\n\xff\u0085\u2028\u202e\U000e0041", "[::1]:1", "\r\n\"\\<&>", "\x7f\x9b", "\x00", make([]byte, 16), uint16(0), int64(-1), int64(-1))
	f.Add(uint8(2), uint8(9), "", "", "", "", "", "", []byte(nil), uint16(1), int64(0), int64(0))
	stderr := file(f)
	f.Fuzz(func(t *testing.T, kind, flags uint8, proto, name, client, user, reason, typ string, addr []byte, port uint16, sent, took int64) {
		a, _ := netip.AddrFromSlice(addr)
		v := policy.Denial(reason)
		if flags&1 != 0 {
			v = policy.Verdict{Action: policy.Allow, Via: typ}.Because(reason)
		}
		x := item{at: noon, count: int(flags), text: name}
		switch kind % 3 {
		case 0:
			x.flow = Event{
				Flow: uint64(took), Closed: flags&2 != 0, Verdict: v, Proto: proto, Dst: netip.AddrPortFrom(a, port), Name: name, Ingress: flags&4 != 0,
				Client: client, User: user, End: End(flags) % (Stopped + 1), Failed: typ, Sent: sent, Received: took, Duration: time.Duration(took),
			}
		case 1:
			x.kind, x.question = ofQuestion, dnsguard.Question{Name: name, Type: typ, Verdict: v, Failed: flags&2 != 0}
		case 2:
			x.kind = ofReload
		}
		rec, ok := x.record()
		line, err := rec.line()
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		shown(t, string(line))
		var read Record
		if err := json.Unmarshal(line, &read); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if kind%3 < 2 && (read.Name != strings.ToValidUTF8(string([]rune(name)), "") || read.Reason != string([]rune(v.Reason()))) {
			t.Errorf("%q and %q have become %s", name, v.Reason(), line)
		}
		for field := range rec.fields() {
			if strings.Trim(field, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
				t.Errorf("field %q", field)
			}
		}
		x.about()

		p := &people{file: stderr, explain: policy.Verdict.Reason, seen: make(map[string]time.Time)}
		p.tell(&x)
		if said := said(t, stderr); said != "" {
			shown(t, said)
			if len(said) > 10*(maxPrinted+len(x.text))+20 {
				t.Errorf("%d bytes were printed", len(said))
			}
		}
	})
}

// shown fails the test unless text is a line that a terminal can show.
func shown(t *testing.T, text string) {
	t.Helper()
	line, ended := strings.CutSuffix(text, "\n")
	if !ended || !utf8.ValidString(line) {
		t.Errorf("it is no line: %q", text)
	}
	for _, c := range line {
		if !strconv.IsPrint(c) {
			t.Errorf("%q is in %q", c, text)
		}
	}
}
