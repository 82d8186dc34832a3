package suggest

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"appfw/policy"
)

var testHost = Host{
	Addrs:     []netip.Addr{netip.MustParseAddr("11.22.0.99")},
	Synthetic: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")},
	Loopback:  func(n policy.Name) bool { return n == "localhost" },
}

// Whatever a log says, what is made of it is a policy, line by line, that has no other
// hosts than the log.
func FuzzSuggest(f *testing.F) {
	for _, s := range []string{
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"10.0.0.5","port":443,"name":"a.example"}`,
		`{"event":"decision","verdict":"deny","direction":"out","proto":"icmp","addr":"2002:a00:1::1"}` + "\n" + `{"event":"dns","verdict":"allow","direction":"out","name":"any","type":"A"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"udp","addr":"198.18.0.1","port":53,"name":"*.com","via":"(default)"}`,
		`{"event":"close","verdict":"allow","direction":"out","proto":"tcp","addr":"::ffff:127.0.0.1%eth0","port":1,"name":"localhost","via":"a b\nallow any","error":"x"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"9.9.9.9","port":1,"via":"a\nallow any"}`,
		`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","port":22,"name":"xn--bcher-kva.example","via":"tor"}` + "\n{",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, log string) {
		h := New(testHost)
		if err := h.Read("log", strings.NewReader(log)); err != nil {
			return
		}
		text := h.Policy()
		for line := range strings.Lines(text) {
			if !regexp.MustCompile(`^(# [ -~]*|allow  [!-~]+( via=[a-z0-9_-]+)? +# (once|\d+ times)|default  deny|upstream ([a-z0-9_-]+=)?URL)\n$`).MatchString(line) {
				t.Fatalf("odd line %q", line)
			}
		}
		lines, err := policy.ReadLines("made", strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		p, err := policy.Compile(policy.Config{Lines: lines})
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		allowed := make(map[string]bool) // what the log has
		for line := range strings.Lines(log) {
			var rec record
			if json.Unmarshal([]byte(line), &rec) == nil && rec.Event == "decision" && rec.Verdict == "allow" && rec.Direction == "out" {
				if name, err := policy.ParseName(rec.Name); err == nil {
					allowed[string(name)] = true
				}
				if a, err := netip.ParseAddr(rec.Addr); err == nil {
					allowed[policy.Embedded(a).String()] = true
				}
			}
		}
		for _, r := range p.Rules() {
			dest, _, _ := strings.Cut(strings.TrimPrefix(r.Text, "allow "), " via=")
			to, err := policy.ParseTarget(firstPort(dest))
			if host := strings.TrimSuffix(string(to.Name), "."); err != nil || !allowed[host] && !allowed[to.Addr.String()] {
				t.Fatalf("%q (%v) is not in the log, from:\n%s", dest, err, text)
			}
		}
	})
}

// A line may be of many denials.
func TestCount(t *testing.T) {
	h := New(testHost)
	for _, count := range []string{"", `,"count":5`, `,"count":-5`, `,"count":9223372036854775807`} {
		line := `{"event":"decision","verdict":"deny","direction":"out","proto":"tcp","addr":"10.0.0.5","port":443` + count + "}"
		if err := h.Read("log", strings.NewReader(line)); err != nil {
			t.Fatal(err)
		}
	}
	if text := h.Policy(); !strings.Contains(text, "# 1073741831 times") {
		t.Error(text)
	}
}

// firstPort is a destination with the first of its ports alone.
func firstPort(dest string) string {
	host, proto, _ := strings.Cut(dest, "/")
	i := strings.LastIndex(host, ":") + 1
	port := regexp.MustCompile(`^\d+`).FindString(host[i:])
	if i == 0 || proto == "icmp" {
		return dest
	}
	if proto != "" {
		proto = "/" + proto
	}
	return host[:i] + port + proto
}

// What is known of the host decides which addresses need rules of their own.
func TestHost(t *testing.T) {
	for _, c := range []struct {
		log  string // what differs from a flow that was allowed
		want string // the rules, without how often
	}{
		{`"addr":"11.22.0.1","name":"a.example"`, "a.example:443/tcp"},
		{`"addr":"11.22.0.1"`, "11.22.0.1:443/tcp"},
		{`"addr":"11.22.0.99","name":"a.example"`, "11.22.0.99:443/tcp a.example:443/tcp"}, // its own
		{`"addr":"10.0.0.1","name":"a.example"`, "10.0.0.1:443/tcp a.example:443/tcp"},
		{`"addr":"127.0.0.1","name":"localhost"`, "127.0.0.1:443/tcp"},
		{`"addr":"198.18.0.1","name":"a.example"`, "198.18.0.1:443/tcp a.example:443/tcp"},
		{`"addr":"198.18.0.1","name":"a.example","via":"tor"`, "a.example:443/tcp"},
		{`"addr":"64:ff9b::b16:63","name":"a.example"`, "11.22.0.99:443/tcp a.example:443/tcp"}, // which carries its own
	} {
		h := New(testHost)
		if err := h.Read("log", strings.NewReader(`{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","port":443,`+c.log+"}\n")); err != nil {
			t.Fatal(err)
		}
		if n, first := h.LeftOut(); n != 0 || h.Empty() {
			t.Errorf("%s: %v", c.log, first)
		}
		var rules []string
		for line := range strings.Lines(h.Policy()) {
			if rule, ok := strings.CutPrefix(line, "allow  "); ok {
				rules = append(rules, strings.Fields(rule)[0])
			}
		}
		if got := strings.Join(rules, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.log, got, c.want)
		}
	}
}
