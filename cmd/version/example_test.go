package version_test

import (
	"fmt"
	"strings"

	"appfw/cmd/version"
)

func Example() {
	fmt.Println(strings.HasPrefix(version.Short(), version.Number))
	// Output: true
}
