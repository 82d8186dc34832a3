package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"appfw/netns"
	"appfw/netns/view"
	"appfw/policy"
	"appfw/proxy/journal"
)

// mayShare refuses words that stand for nothing.
func mayShare(words []string) error {
	for _, word := range words {
		if slices.Contains(view.Share, word) {
			continue
		}
		if hint := policy.Nearest(word, view.Share); hint != "" {
			return fmt.Errorf("--share: there is no %.80q to share (did you mean %s?)", word, hint)
		}
		return fmt.Errorf("--share: there is no %.80q to share; there are %s", word, strings.Join(view.Share, ", "))
	}
	return nil
}

// refusals say what a run cannot do that its user can without appfw.
var refusals = map[netns.Refused]string{
	netns.Group:      "the program was refused to give a file to another group: an ordinary user's run has one (sudo appfw run has all)",
	netns.Capability: "root has no capabilities here: the program was refused another user, or to give a file to one (--user runs it as one; tar --no-same-owner keeps files)",
	netns.Directory:  "root has no capabilities here, and cannot write to the working directory (to run as its owner: --user)",
}

// sharing says what comes of --share: what is not there to share, what the program
// asks for that is not shared, and what cannot be hidden.
func sharing(report *journal.Journal, quiet bool) view.Events {
	say := func(line string) {
		if !quiet {
			report.Say(line)
		}
	}
	return view.Events{
		Missing: func(word string) { say("--share " + word + ": this host has none, by the environment") },
		Asked: func(word string) {
			if filepath.IsAbs(word) {
				say("the program asked for the host's " + printable(word) + ", which is hidden (to show it: --allow-unix " + printable(word) + ")")
				return
			}
			say("the program asked for the host's " + word + ", which is not shared (to share: --share " + word + ")")
		},
		Unseen: func(path string) {
			say(printable(path) + " is seen by the program alone, as all that it makes at the top of " + printable(filepath.Dir(path)))
		},
		Failed: func(err error) {
			report.Say("Unix sockets of the host may be reached from now on: cannot " + printable(err.Error()))
		},
	}
}
