package cli

import (
	"strings"
	"testing"

	"appfw/policy"
)

// What is completed of a policy's words is taken by the policy, and each kind of argument
// that is completed is one of a word.
func TestValues(t *testing.T) {
	used := make(map[string]bool)
	for _, w := range policy.Words() {
		list, ok := values[w.Arg]
		if !ok && w.Arg != "FILE" && w.Arg != "PATH" && w.Arg != "N" && w.Arg != "PREFIX" {
			t.Errorf("%s %s: nothing is completed", w.Name, w.Arg)
		}
		used[w.Arg] = true
		for _, v := range list {
			if strings.HasSuffix(v, "://") || v == "@" {
				continue // the rest is the user's
			}
			if _, err := policy.Compile(policy.Config{Lines: []policy.Line{{Word: w.Name, Arg: v, Pos: policy.Pos{File: "t"}}}}); err != nil {
				t.Errorf("%s %s: %v", w.Name, v, err)
			}
		}
	}
	for arg := range values {
		if !used[arg] {
			t.Errorf("no word has an argument %s", arg)
		}
	}
}
