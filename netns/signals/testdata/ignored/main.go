// Command ignored says what it was to ignore, and has grep(1) say what that is to
// ignore which it executes.
package main

import (
	"fmt"
	"os"
	"syscall"

	"appfw/netns/signals"
)

func main() {
	ignored := signals.Ignored(signals.IgnoredNow())
	fmt.Printf("%x\n", uint64(ignored))
	err := ignored.Apply()
	if err == nil {
		err = syscall.Exec("/bin/grep", []string{"grep", "SigIgn", "/proc/self/status"}, nil)
	}
	fmt.Println(err)
	os.Exit(1)
}
