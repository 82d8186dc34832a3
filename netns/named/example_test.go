package named_test

import (
	"fmt"

	"appfw/netns/named"
)

func Example() {
	path, err := named.Path("web")
	fmt.Println(path, err)
	_, err = named.Path("../web")
	fmt.Println(err)
	// named.Make("web") makes it, as root.

	// Output:
	// /run/netns/web <nil>
	// "../web" is no name of a namespace
}
