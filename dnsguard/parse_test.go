package dnsguard

import (
	"strconv"
	"strings"
	"testing"

	"appfw/policy"
)

func TestParseServer(t *testing.T) {
	for _, c := range []struct{ in, want, dial, cert string }{
		{"9.9.9.9", "9.9.9.9:53", "", ""},
		{"9.9.9.9:5353", "9.9.9.9:5353", "", ""},
		{"2620:fe::fe", "[2620:fe::fe]:53", "", ""},
		{"[2620:FE::fe]", "[2620:fe::fe]:53", "", ""},
		{"[2620:fe::fe]:5353", "[2620:fe::fe]:5353", "", ""},
		{"fe80::1%eth0.5", "[fe80::1%eth0.5]:53", "", ""},
		{"::ffff:192.0.2.1", "192.0.2.1:53", "", ""},
		{"127.0.0.53", "127.0.0.53:53", "", ""},
		{"::1", "[::1]:53", "", ""},
		{"corp.example=10.0.0.53", "corp.example=10.0.0.53:53", "", ""},
		{"Corp.Example.=10.0.0.53:5353", "corp.example=10.0.0.53:5353", "", ""},
		{"lan=192.168.1.1", "lan=192.168.1.1:53", "", ""},
		{"10.in-addr.arpa=[::1]:54", "10.in-addr.arpa=[::1]:54", "", ""},
		{"tls://9.9.9.9", "tls://9.9.9.9", "9.9.9.9:853", "9.9.9.9"},
		{"TLS://Dns.Quad9.Net.:853", "tls://dns.quad9.net", "dns.quad9.net:853", "dns.quad9.net"},
		{"tls://9.9.9.9:8853#dns.quad9.net", "tls://9.9.9.9:8853#dns.quad9.net", "9.9.9.9:8853", "dns.quad9.net"},
		{"tls://[2620:fe::fe]#DNS.quad9.net.", "tls://[2620:fe::fe]#dns.quad9.net", "[2620:fe::fe]:853", "dns.quad9.net"},
		{"tls://[::1]:443", "tls://[::1]:443", "[::1]:443", "::1"},
		{"tls://[fe80::1%lo]", "tls://[fe80::1%lo]", "[fe80::1%lo]:853", "fe80::1"},
		{"tls://localhost", "tls://localhost", "localhost:853", "localhost"},
		{"corp.example=tls://10.0.0.53#ns.corp.example", "corp.example=tls://10.0.0.53#ns.corp.example", "10.0.0.53:853", "ns.corp.example"},
		{"https://dns.quad9.net/dns-query", "https://dns.quad9.net/dns-query", "dns.quad9.net:443", "dns.quad9.net"},
		{"HTTPS://DNS.example:443/A/%20?b=c&d", "https://dns.example/A/%20?b=c&d", "dns.example:443", "dns.example"},
		{"https://[2620:fe::fe]:8443//x", "https://[2620:fe::fe]:8443//x", "[2620:fe::fe]:8443", "2620:fe::fe"},
		{"https://[fe80::1%lo]/", "https://[fe80::1%lo]/", "[fe80::1%lo]:443", "fe80::1"},
		{"a=https://1.1.1.1/?b=c", "a=https://1.1.1.1/?b=c", "1.1.1.1:443", "1.1.1.1"},
		{"https://1.1.1.1/a=b", "https://1.1.1.1/a=b", "1.1.1.1:443", "1.1.1.1"},
	} {
		s, err := ParseServer(c.in)
		if err != nil {
			t.Error(err)
			continue
		}
		dial, cert := "", ""
		switch x := s.transport.(type) {
		case *dot:
			dial, cert = x.address, s.TLS.ServerName
		case *doh:
			dial, cert = x.address, s.TLS.ServerName
		}
		if s.String() != c.want || dial != c.dial || cert != c.cert {
			t.Errorf("%s: %s, %s, %s, want %s, %s, %s", c.in, s, dial, cert, c.want, c.dial, c.cert)
		}
	}
	// The interface is for the connection alone.
	if s, _ := ParseServer("https://[fe80::1%lo]:8443/x"); s.transport.(*doh).url != "https://[fe80::1]:8443/x" {
		t.Error(s.transport.(*doh).url)
	}

	for in, want := range map[string]string{
		"":                                "empty name",
		" 9.9.9.9":                        "cannot have the character ' '",
		"9.9.9.9 ":                        "cannot have the character ' '",
		"9.9.9":                           "is a number",
		"9.9.9.9:":                        `"" is no port`,
		"9.9.9.9:0":                       `"0" is no port`,
		"9.9.9.9:65536":                   `"65536" is no port`,
		"9.9.9.9:dns":                     `"dns" is no port`,
		"9.9.9.9:+53":                     `"+53" is no port`,
		"9.9.9.9:53:53":                   "is no address",
		"9.9.9.9/32":                      "cannot have the character '/'",
		"9.9.9.9#5353":                    "did you mean 9.9.9.9:5353?",
		"9.9.9.9@853":                     "did you mean 9.9.9.9:853?",
		"::1#53":                          "comes after a colon",
		"9.9.9.9#dns.quad9.net":           "only tls:// can have a #NAME (did you mean tls://9.9.9.9#dns.quad9.net?)",
		"dns.quad9.net":                   "given by its address; one that is given by name is tls://dns.quad9.net or https://dns.quad9.net/dns-query",
		"dns.quad9.net:53":                "given by its address",
		"[9.9.9.9]:53":                    "is not an IPv6 address in brackets",
		"[::1":                            "is not an IPv6 address in brackets",
		"[::1]x:53":                       "is not an IPv6 address in brackets",
		"[::1]:":                          `"" is no port`,
		"[":                               "is not an IPv6 address in brackets",
		"::1]:53":                         "is no address",
		"0.0.0.0":                         "not the address of one host",
		"[::]:53":                         "not the address of one host",
		"224.0.0.251":                     "not the address of one host",
		"tls://255.255.255.255":           "not the address of one host",
		"fe80::1%a b":                     `"a b" is no interface`,
		"tls:9.9.9.9":                     "two slashes are missing (did you mean tls://9.9.9.9?)",
		"tls:/Dns.quad9.net:853":          "(did you mean tls://dns.quad9.net?)",
		"https:/dns.quad9.net/dns-query":  "(did you mean https://dns.quad9.net/dns-query?)",
		"tls:\x1b":                        "two slashes are missing",
		"tls://":                          "empty name",
		"tls://9.9.9.9/":                  "only #NAME can follow",
		"tls://9.9.9.9/dns-query":         "only #NAME can follow",
		"tls://9.9.9.9#":                  "the name after #: empty name",
		"tls://9.9.9.9#1.1.1.1":           "the name after #: ",
		"tls://2620:fe::fe":               "in a URL, an IPv6 address is in brackets",
		"tls://user@dns.example":          "cannot have the character '@'",
		"tls://dns.example:0":             "is no port",
		"http://dns.quad9.net/dns-query":  "there is https://",
		"HTTP://x/":                       "there is https://",
		"htps://dns.quad9.net/dns-query":  "did you mean https://?",
		"tlss://9.9.9.9":                  "did you mean tls://?",
		"udp://9.9.9.9":                   "unknown scheme; a resolver is",
		"://9.9.9.9":                      "unknown scheme; a resolver is",
		"https://dns.quad9.net":           "it has no path (did you mean https://dns.quad9.net/dns-query?)",
		"https://9.9.9.9:0":               "it has no path",
		"https:///dns-query":              "empty name",
		"https://d.example/x#y":           "only tls:// can have a #NAME",
		"https://d.example/dns{?dns}":     "leave {?dns} out",
		"https://d.example/\n":            `cannot have the character '\n'`,
		"https://d.example/ü":             "cannot have the character 'ü'",
		"https://d.example/\xff":          "cannot have the character '\ufffd'",
		"https://d.example/%2":            "two hexadecimal digits",
		"https://a:b@d.example/":          `"b@d.example" is no port`,
		"=9.9.9.9":                        "empty name",
		".=9.9.9.9":                       "empty name",
		"corp.example=":                   "empty name",
		"a=b=9.9.9.9":                     "cannot have the character '='",
		"*.corp.example=10.0.0.53":        "a zone is all the names below it (did you mean corp.example=?)",
		".corp.example=10.0.0.53":         "(did you mean corp.example=?)",
		"10.0.0.0=10.0.0.53":              "is a number",
		"bücher.example=10.0.0.53":        "xn--bcher-kva.example",
		"corp.example=corp.example":       "given by its address",
		"corp.example=" + "a\x00=9.9.9.9": `cannot have the character '\x00'`,
	} {
		s, err := ParseServer(in)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `"`) {
			t.Errorf("%q: %v, %v, want %s", in, s, err, want)
		}
	}
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{
		"9.9.9.9", "[::1]:5353", "fe80::1%eth0", "corp.example=tls://10.0.0.53:8853#ns.corp.example",
		"lan=https://dns.example:8443/dns-query?a=b", "tls:/x", "htps://x/", "9.9.9.9@853", "*.a=1.1.1.1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseServer(in)
		if err != nil {
			for _, c := range err.Error() {
				if !strconv.IsPrint(c) {
					t.Fatalf("%q", err)
				}
			}
			return
		}
		again, err := ParseServer(s.String())
		if err != nil || again.String() != s.String() || again.Zone != s.Zone {
			t.Fatalf("%q: %s became %v, %v", in, s, again, err)
		}
		if n, err := policy.ParseName(string(s.Zone)); s.Zone != "" && (err != nil || n != s.Zone) {
			t.Fatalf("%q: zone %q", in, s.Zone)
		}
		lower := strings.ToLower(in)
		switch s.transport.(type) {
		case do53:
			if s.TLS != nil || strings.Contains(lower, "tls:") || strings.Contains(lower, "http") && !strings.Contains(string(s.Zone), "http") {
				t.Fatalf("%q is plain", in)
			}
		case *dot, *doh:
			if s.TLS.ServerName == "" || s.TLS.InsecureSkipVerify || strings.Contains(s.TLS.ServerName, "%") {
				t.Fatalf("%q: certificate of %q", in, s.TLS.ServerName)
			}
		}
	})
}
