//go:build race

package main

import "time"

// Under the race detector, the program under test has it, too.
var buildFlags = []string{"-race"}

const failFast = 10 * time.Second

const connectionLimitKB = 200

// The detector would make each program sleep for a second before it exits.
var raceEnv = []string{"GORACE=atexit_sleep_ms=0"}
