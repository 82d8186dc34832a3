package socks

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

// FuzzPayload: what is sent is understood, and nothing else than a whole header is
// taken off what comes.
func FuzzPayload(f *testing.F) {
	for _, s := range []string{
		"\x00\x00\x00\x01\x01\x02\x03\x04\x00\x35pong", "\x00\x00\x00\x03\x09a.example\x00\x35", "\x00\x00\x00\x03\xffshort", "\x00\x00\x01\x01\x01\x02\x03\x04\x00\x35fragment", "\x00\x00\x00\x09", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, data, ok := Payload(b)
		if ok && (!bytes.HasSuffix(b, data) || len(b)-len(data) < 4+1+2 || b[2] != 0) {
			t.Fatalf("%q of %q", data, b)
		}
		for _, host := range []string{"a.example", "1.2.3.4", "2001:db8::1"} {
			_, got, ok := Payload(append(AppendAddress([]byte{0, 0, 0}, host, 53), b...))
			if !ok || !bytes.Equal(got, b) {
				t.Fatalf("%s: %q, not %q", host, got, b)
			}
		}
	})
}

// FuzzAddress: a header is what its parts make, and what they make is read as them.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"\x00\x00\x00\x01\x01\x02\x03\x04\x00\x35data", "\x00\x00\x00\x03\x09a.example\x00\x35", "\x00\x00\x00\x03\x00\x00\x35", "\x00\x00\x00\x03\x071.2.3.4\x00\x35",
		"\x00\x00\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x01\x02\x03\x04\x00\x35", "\x00\x00\x00\x03\xffshort", "\x00\x00\x01\x01\x01\x02\x03\x04\x00\x35",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		source, data, ok := Payload(b)
		if !ok {
			return
		}
		if 3+len(source)+len(data) != len(b) {
			t.Fatalf("%q and %q of %q", source, data, b)
		}
		host, port := SplitAddress(string(source))
		made := AppendAddress(nil, host, port)
		want := host
		addr, err := netip.ParseAddr(host)
		if err == nil && addr.Zone() == "" {
			want = addr.String() // as a name, it may have been spelled in another way
		}
		if again, p := SplitAddress(string(made)); again != want || p != port {
			t.Fatalf("%q, %d is %q, %d", host, port, again, p)
		}
		// But that an address may have been written as a name.
		if (err != nil || source[0] != AddressName) && string(made) != string(source) {
			t.Fatalf("%q is %q", source, made)
		}
	})
}
