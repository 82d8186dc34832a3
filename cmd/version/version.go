// Package version says which appfw this is. Number is the one place where a release's
// number is written; packages and man pages have it from there:
//
//	fmt.Print(version.Long())
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"appfw/policy"
)

// Number is the version, as Semantic Versioning has it.
const Number = "0.1.0"

// Date is when Number was given, as man pages and packages have it.
const Date = "2026-12-01"

// Short is the version, the commit if it is known, and that of Go, in a line without its end.
func Short() string {
	text := Number
	if c := commit(); c != "" {
		text += " (" + c + ")"
	}
	return text + " " + runtime.Version()
}

// Long is the same in a line for each.
func Long() string {
	c := commit()
	if c == "" {
		c = "unknown"
	}
	return fmt.Sprintf("appfw   %s\ncommit  %s\nGo      %s, %s/%s\npublic suffixes of %s\n", Number, c,
		strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH, policy.SuffixDate())
}

// commit is what this program was built from; "" if its builder had no repository.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	return ofCommit(settings)
}

// ofCommit is the commit in the settings of a build, and what is different from it.
func ofCommit(settings map[string]string) string {
	c := settings["vcs.revision"]
	if len(c) > 12 {
		c = c[:12]
	}
	if c != "" && settings["vcs.modified"] == "true" {
		c += ", changed"
	}
	return c
}
