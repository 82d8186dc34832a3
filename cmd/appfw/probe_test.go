package main

import "fmt"

// probes are small programs that tests run under appfw, where no real one does
// what is wanted. They print what happened and exit with 0 unless they fail.
var probes = map[string]func(args []string) error{}

func runProbe(name string, args []string) int {
	if err := probes[name](args); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// probing is the command line of a probe.
func probing(name string, args ...string) []string {
	return append([]string{"env", "APPFW_PROBE=" + name, probeProgram}, args...)
}
