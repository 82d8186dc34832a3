// Command gotest runs "go test -json" with its arguments, prints the output of
// packages and of tests that failed, and a closing line that counts the tests.
// A skipped test is a failure: all that a test needs is to be there.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is one line of "go test -json" (go doc test2json).
type event struct{ Action, Package, Test, Output string }

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	count := map[string]int{}
	output := map[string]*strings.Builder{} // by package and test
	d := json.NewDecoder(stdout)
	for {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "gotest:", err)
			os.Exit(1)
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			switch {
			case e.Test != "":
				if output[key] == nil {
					output[key] = new(strings.Builder)
				}
				output[key].WriteString(e.Output)
			case e.Output != "PASS\n":
				fmt.Print(e.Output)
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				break
			}
			count[e.Action]++
			if b := output[key]; b != nil && e.Action != "pass" {
				fmt.Print(b)
			}
			delete(output, key)
		}
	}
	failed := cmd.Wait() != nil || count["fail"] > 0
	fmt.Printf("%d passed, %d failed, %d skipped\n", count["pass"], count["fail"], count["skip"])
	if failed || count["skip"] > 0 || count["pass"] == 0 {
		os.Exit(1)
	}
}
