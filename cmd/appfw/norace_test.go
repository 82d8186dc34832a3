//go:build !race

package main

import "time"

var buildFlags []string

// failFast is how fast a denied program fails: the promise is a second.
const failFast = 3 * time.Second

const memoryLimitKB = 200 << 10

var raceEnv []string
