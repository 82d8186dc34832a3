package signals_test

import (
	"fmt"

	"golang.org/x/sys/unix"

	"appfw/netns/signals"
)

func ExampleSet() {
	s := signals.Set(0).With(unix.SIGTERM)
	fmt.Println(s.Has(unix.SIGTERM), s.Has(unix.SIGINT))
	// Output: true false
}
