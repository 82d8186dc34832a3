//go:build !race

package main

import "time"

var buildFlags []string

// failFast is how fast a denied program fails: the promise is a second.
const failFast = 3 * time.Second

// connectionLimitKB is what an idle connection may take: ten thousand have 200 MiB.
const connectionLimitKB = 20

var raceEnv []string
