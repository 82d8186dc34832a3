package route_test

import (
	"fmt"
	"net/netip"

	"appfw/netns/route"
)

func Example() {
	t := route.New()
	defer t.Close()
	fmt.Println(t.Kind(netip.MustParseAddr("127.0.0.1")))
	if t.Kind(netip.MustParseAddr("224.0.0.1")) != route.Unicast {
		fmt.Println("not one host")
	}

	// Output:
	// local
	// not one host
}
