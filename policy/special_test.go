package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestEmbeddedAndSpecial(t *testing.T) {
	for _, tt := range []struct{ addr, embedded, special string }{
		{"8.8.8.8", "8.8.8.8", ""},
		{"2606:4700::1111", "2606:4700::1111", ""},
		{"127.8.9.10", "127.8.9.10", "loopback"},
		{"::1", "::1", "loopback"},
		{"::", "::", "this host"},
		{"0.1.2.3", "0.1.2.3", "this host"},
		{"255.255.255.255", "255.255.255.255", "broadcast"},
		{"169.254.169.254", "169.254.169.254", "link-local"},
		{"fe80::1%eth0", "fe80::1", "link-local"},
		{"febf::1", "febf::1", "link-local"},
		{"10.1.2.3", "10.1.2.3", "private"},
		{"172.31.255.255", "172.31.255.255", "private"},
		{"172.32.0.0", "172.32.0.0", ""},
		{"100.64.0.1", "100.64.0.1", "private"},
		{"fd00:ec2::254", "fd00:ec2::254", "private"},
		{"224.0.0.251", "224.0.0.251", "multicast"},
		{"ff02::fb", "ff02::fb", "multicast"},
		{"192.0.0.1", "192.0.0.1", "reserved"},
		{"240.0.0.1", "240.0.0.1", "reserved"},
		{"fec0::1", "fec0::1", "reserved"},
		{"100:0:0:1::1", "100:0:0:1::1", "reserved"},
		{"198.19.0.1", "198.19.0.1", "benchmarking"},
		{"2001:2::1", "2001:2::1", "benchmarking"},
		{"2001:db8::1", "2001:db8::1", "documentation"},
		{"192.88.99.1", "192.88.99.1", "6to4 relay"},

		{"::ffff:8.8.8.8", "8.8.8.8", ""},
		{"::ffff:127.0.0.1", "127.0.0.1", "loopback"},
		{"::ffff:0:10.0.0.1", "10.0.0.1", "private"}, // RFC 2765
		{"::169.254.169.254", "169.254.169.254", "link-local"},
		{"::0.0.0.2", "0.0.0.2", "this host"},
		{"64:ff9b::8.8.8.8", "8.8.8.8", ""},
		{"64:ff9b::10.0.0.1", "10.0.0.1", "private"},
		{"64:ff9b:1::127.0.0.1", "127.0.0.1", "loopback"},
		{"2002:808:808::1", "8.8.8.8", ""},
		{"2002:7f00:1::", "127.0.0.1", "loopback"},
		{"2001:0:4136:e378:8000:63bf:f7f7:f7f7", "8.8.8.8", ""},
		{"2001:0:4136:e378:8000:63bf:f5ff:fffe", "10.0.0.1", "private"},
		{"2606:4700::5efe:10.0.0.1", "2606:4700::5efe:a00:1", "private"},
		{"2606:4700::200:5efe:127.0.0.1", "2606:4700::200:5efe:7f00:1", "loopback"},
		{"fd00::5efe:8.8.8.8", "fd00::5efe:808:808", "private"}, // the LAN may have a host of that address
		{"fe80::5efe:8.8.8.8", "fe80::5efe:808:808", "link-local"},
	} {
		a := netip.MustParseAddr(tt.addr)
		if got := Embedded(a).String(); got != tt.embedded {
			t.Errorf("Embedded(%s) = %s, want %s", a, got, tt.embedded)
		}
		if got := Special(a).String(); got != tt.special {
			t.Errorf("Special(%s) = %q, want %q", a, got, tt.special)
		}
	}
	if got := Special(netip.Addr{}); got != Ordinary {
		t.Errorf("Special of no address = %q", got)
	}
}

func TestKeyword(t *testing.T) {
	for word, want := range map[string]string{
		"any":        "[0.0.0.0/0 ::/0]",
		"localhost":  "[127.0.0.0/8 ::1/128]",
		"link-local": "[169.254.0.0/16 fe80::/64]",
		"multicast":  "[224.0.0.0/4 ff00::/8]",
		"private":    "[10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7]",
		"":           "[]",
		"loopback":   "[]",
		"Private":    "[]",
		"reserved":   "[]",
	} {
		if got := fmt.Sprint(Keyword(word)); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
	if got, want := fmt.Sprint(keywords), "[any link-local localhost multicast private]"; got != want {
		t.Errorf("keywords are %s, want %s", got, want)
	}
}

func TestMeantEverywhere(t *testing.T) {
	for prefix, want := range map[string]bool{
		"127.8.0.0/16": true, "::/64": true, "224.0.0.0/3": true, "240.0.0.0/8": true, "255.255.255.0/24": true, "239.0.0.0/8": true,
		"ff0e::/16": true, "169.254.1.0/24": true, "fe80::/10": true, "febf::/16": true, "0.0.0.0/8": true, "192.0.0.0/16": true,
		"::ffff:0:0/96": true, "0.0.0.0/0": true, "::/0": true,
		"198.18.0.0/15": false, "10.0.0.0/8": false, "192.0.2.0/24": false, "100::/64": false, "fec0::/10": false, "2001:2::/48": false,
		"fd00::/8": false, "64:ff9b::/96": false, "203.0.113.0/24": false, "8.8.8.0/24": false, "192.88.99.0/24": false,
	} {
		if got := meantEverywhere(netip.MustParsePrefix(prefix)); got != want {
			t.Errorf("%s: %t", prefix, got)
		}
	}
}
