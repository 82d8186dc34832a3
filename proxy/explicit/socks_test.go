package explicit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/proxy"
	"appfw/proxy/upstream"
	"appfw/proxy/upstream/socks"
)

// socksTo is a request of SOCKS5.
func socksTo(command byte, host, port string) string {
	b := socks.AppendAddress([]byte{socks.Version, command, 0}, host, 0)
	return string(b[:len(b)-2]) + port
}

const hello5, open5 = "\x05\x01\x00", "\x05\x00"

// refuse5 is a reply of SOCKS5 with a code, and without an address.
func refuse5(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

const (
	grant4, refuse4 = "\x00\x5a\x00\x00\x00\x00\x00\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"
	granted5        = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

// conversations are those with a service where PORT of 127.0.0.1, as a.example, is
// an allowed echo; and whether that is reached.
func conversations(t *testing.T, at string) (rules string, all map[string][]turn) {
	text, raw := port(t, at)
	_, shut := port(t, closedPort(t))
	rules = fmt.Sprintf("allow 127.0.0.1\nallow a.example\nallow far.example\nallow broken.example\nallow none.example\ndeny 127.0.0.1:%s/udp\ndeny 127.0.0.2", text)
	ping := turn{"ping", "ping"}
	after := func(request, reply string) []turn { return []turn{{hello5, open5}, {request, reply}} }
	long := strings.Repeat("a", 255)
	return rules, map[string][]turn{
		"SOCKS5 to an address":   append(after(socksTo(1, "127.0.0.1", raw), granted5), ping),
		"to a mapped address":    append(after(socksTo(1, "::ffff:127.0.0.1", raw), granted5), ping),
		"to a name":              append(after(socksTo(1, "a.example", raw), granted5), ping),
		"in capitals":            append(after(socksTo(1, "A.Example.", raw), granted5), ping),
		"an address as a name":   append(after("\x05\x01\x00\x03\x09127.0.0.1"+raw, granted5), ping),
		"with any password":      {{"\x05\x01\x02", "\x05\x02"}, {"\x01\x01u\x01p", "\x01\x00"}, {socksTo(1, "a.example", raw), granted5}, ping},
		"with an empty password": {{"\x05\x01\x02", "\x05\x02"}, {"\x01\x00\x00", "\x01\x00"}, {socksTo(1, "a.example", raw), granted5}, ping},
		"denied address":         after(socksTo(1, "127.0.0.2", raw), refuse5(2)),
		"denied name":            after(socksTo(1, "denied.example", raw), refuse5(2)),
		"denied address of one":  after(socksTo(1, "far.example", raw), refuse5(2)),
		"port 0":                 after(socksTo(1, "127.0.0.1", "\x00\x00"), refuse5(2)),
		"this host":              after(socksTo(1, "0.0.0.0", raw), refuse5(2)),
		"NAT64 of a denied one":  after(socksTo(1, "64:ff9b::7f00:2", raw), refuse5(2)),
		"a zone":                 after("\x05\x01\x00\x03\x09fe80::1%1"+raw, refuse5(2)),
		"an address in brackets": after("\x05\x01\x00\x03\x0b[127.0.0.1]"+raw, refuse5(2)),
		"a number":               after("\x05\x01\x00\x03\x0a2130706433"+raw, refuse5(2)),
		"a short address":        after("\x05\x01\x00\x03\x05127.1"+raw, refuse5(2)),
		"no name":                after("\x05\x01\x00\x03\x00"+raw, refuse5(2)),
		"a NUL in a name":        after("\x05\x01\x00\x03\x0aa.example\x00"+raw, refuse5(2)),
		"the longest name":       after("\x05\x01\x00\x03\xff"+long+raw, refuse5(2)),
		"nobody there":           after(socksTo(1, "127.0.0.1", shut), refuse5(5)),
		"no such name":           after(socksTo(1, "none.example", raw), refuse5(4)),
		"no resolver":            after(socksTo(1, "broken.example", raw), refuse5(4)),
		"BIND":                   after(socksTo(2, "127.0.0.1", raw), refuse5(7)),
		"an unknown command":     after(socksTo(9, "127.0.0.1", raw), refuse5(7)),
		"an unknown address":     after("\x05\x01\x00\x02", refuse5(8)),
		"no method":              {{"\x05\x00", "\x05\xff"}},
		"GSSAPI":                 {{"\x05\x01\x01", "\x05\xff"}},
		"RESOLVE of an address":  after(socksTo(0xf0, "127.0.0.9", "\x00\x00"), "\x05\x00\x00\x01\x7f\x00\x00\x09\x00\x00"),
		"RESOLVE denied":         after(socksTo(0xf0, "denied.example", "\x00\x00"), refuse5(2)),
		"RESOLVE of none":        after(socksTo(0xf0, "none.example", "\x00\x00"), refuse5(4)),
		"RESOLVE of localhost":   after(socksTo(0xf0, "localhost", "\x00\x00"), "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00"),
		"RESOLVE_PTR of nothing": after(socksTo(0xf1, "127.0.0.9", "\x00\x00"), refuse5(4)),
		"RESOLVE_PTR of a name":  after(socksTo(0xf1, "a.example", "\x00\x00"), refuse5(4)),
		"version 6":              {{hello5, open5}, {"\x06\x01\x00\x01\x7f\x00\x00\x01" + raw, ""}},
		"wrong version of users": {{"\x05\x01\x02", "\x05\x02"}, {"\x05\x01u\x01p", ""}},

		"SOCKS4":               {{"\x04\x01" + raw + "\x7f\x00\x00\x01user\x00", grant4}, ping},
		"SOCKS4a":              {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00a.example\x00", grant4}, ping},
		"SOCKS4, denied":       {{"\x04\x01" + raw + "\x7f\x00\x00\x02\x00", refuse4}},
		"SOCKS4a, denied":      {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00denied.example\x00", refuse4}},
		"SOCKS4a without name": {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00\x00", refuse4}},
		"SOCKS4, this host":    {{"\x04\x01" + raw + "\x00\x00\x00\x00\x00", refuse4}},
		"SOCKS4, BIND":         {{"\x04\x02" + raw + "\x7f\x00\x00\x01\x00", refuse4}},
		"SOCKS4, nobody there": {{"\x04\x01" + shut + "\x7f\x00\x00\x01\x00", refuse4}},
		"SOCKS4, longest user": {{"\x04\x01" + raw + "\x7f\x00\x00\x01" + long + "\x00", grant4}, ping},
		"SOCKS4, longer user":  {{"\x04\x01" + raw + "\x7f\x00\x00\x01" + long + "a", ""}},
		"SOCKS4a, longer name": {{"\x04\x01" + raw + "\x00\x00\x00\x01\x00" + long + "a", ""}},
	}
}

// reaches tells whether a conversation has something echoed.
func reaches(turns []turn) int32 {
	if turns[len(turns)-1].say == "ping" {
		return 1
	}
	return 0
}

// SOCKS as it is spoken, in whole and byte by byte. Where the destination is not
// reached, the client hears of the end.
func TestSOCKS(t *testing.T) {
	noLeak(t)
	at, count := counter(t, "127.0.0.1:0")
	rules, all := conversations(t, at)
	s := newService(t, newTenant(t, rules).Proxy, nil)
	for what, turns := range all {
		for _, size := range []int{0, 1} {
			before := count.Load()
			c := s.dial(t)
			talk(t, what, c, turns, size)
			if got, want := count.Load()-before, reaches(turns); got != want {
				t.Errorf("%s: %d connections to the server, want %d", what, got, want)
			}
			if reaches(turns) == 0 {
				if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("%s: after it, %q, %v", what, rest, err)
				}
			}
			c.Close()
		}
	}
}

// A conversation that breaks off anywhere ends, and reaches nothing that it does
// not reach as a whole.
func TestSOCKSBreaksOff(t *testing.T) {
	noLeak(t)
	at, reached := counter(t, "127.0.0.1:0")
	rules, all := conversations(t, at)
	s := newService(t, newTenant(t, rules).Proxy, nil)
	for _, what := range slices.SortedFunc(maps.Keys(all), func(a, b string) int { return int(reaches(all[a]) - reaches(all[b])) }) {
		turns := all[what] // first those that reach nothing
		whole := ""
		for _, x := range turns {
			whole += x.say
		}
		for n := range len(whole) {
			if n > 24 && n < len(whole)-24 { // within a name that is long
				continue
			}
			c := s.dial(t)
			if _, err := io.WriteString(c, whole[:n]); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s, cut after %d bytes, does not end", what, n)
			}
			c.Close()
			if reaches(turns) == 0 && reached.Load() > 0 {
				t.Fatalf("%s, cut after %d bytes, reaches the server", what, n)
			}
		}
	}
}

// What an error is to a client of SOCKS5.
func TestSOCKSReply(t *testing.T) {
	refuses := server(t, func(c net.Conn) {
		for _, answer := range []string{"\x05\x00", "\x05\x05\x00\x01\x01\x02\x03\x04\x00\x50"} {
			if _, err := c.Read(make([]byte, 100)); err != nil {
				return
			}
			_, _ = io.WriteString(c, answer)
		}
	})
	chain := upstream.New()
	if err := chain.Append("socks5h://" + refuses); err != nil {
		t.Fatal(err)
	}
	_, refusal := chain.Dial(t.Context(), "", "a.example", 80, false)
	for _, tt := range []struct {
		err  error
		want byte
	}{
		{&proxy.Denied{}, 2},
		{fmt.Errorf("x: %w", &proxy.Denied{}), 2},
		{unix.ECONNREFUSED, 5},
		{refusal, 5},
		{unix.EACCES, 2},
		{unix.EPERM, 2},
		{unix.ENETUNREACH, 3},
		{unix.EADDRNOTAVAIL, 3},
		{unix.EAFNOSUPPORT, 3},
		{unix.EMFILE, 1},
		{context.Canceled, 1},
		{unix.ETIMEDOUT, 4},
		{errors.New("x"), 4},
	} {
		if got := socksReply(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

// FuzzReadSOCKS4: a request is read to its last byte, and says what its bytes do.
func FuzzReadSOCKS4(f *testing.F) {
	for _, s := range []string{
		"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00rest", "\x04\x01\x00\x50\x00\x00\x00\x01u\x00a.example\x00rest", "\x04\x02\x00\x50\x01\x02\x03\x04\x00", "\x04\x01\x00\x50\x00\x00\x00\x00\x00", "\x05\x01\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		host, port, user, err := readSOCKS4(r)
		used := string(b[:len(b)-r.Len()])
		if len(used) > 8+256+256 {
			t.Fatalf("it read %d bytes", len(used))
		}
		if err != nil || host == "" {
			return
		}
		addr, parsed := netip.ParseAddr(host)
		made := []byte{4, 1, byte(port >> 8), byte(port)}
		if used[4:7] == "\x00\x00\x00" && used[7] != 0 { // a name
			made = append(append(made, used[4:8]...), user+"\x00"+host+"\x00"...)
		} else if parsed == nil {
			made = append(append(made, addr.AsSlice()...), user+"\x00"...)
		}
		if string(made) != used {
			t.Fatalf("%q is %q", used, made)
		}
	})
}
