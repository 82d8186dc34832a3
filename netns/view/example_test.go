package view_test

import (
	"fmt"
	"net/netip"

	"appfw/netns/view"
)

// A program in the view resolves by appfw, and knows of the host's names only those
// of the loopback.
func Example() {
	v := view.Of(view.Host{
		Resolver: netip.MustParseAddr("192.0.0.1"),
		Resolv:   []string{"search example.com"},
		Hosts:    []byte("10.0.0.7 db\n127.0.1.1 me\n"),
		UID:      1000,
		Env:      []string{"HOME=/home/me"},
	}, nil)
	fmt.Printf("%s%s", v.Files["/etc/resolv.conf"], v.Files["/etc/hosts"])
	// A Guard, which Watch returns, is such a view while the program runs.

	// Output:
	// # appfw answers here, for the names that its policy allows.
	// nameserver 192.0.0.1
	// search example.com
	// 127.0.0.1 localhost
	// ::1 localhost ip6-localhost ip6-loopback
	// 127.0.1.1 me
}
