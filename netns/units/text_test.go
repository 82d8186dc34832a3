package units

import "testing"

// A word of a unit is one word of one line.
func TestQuoteWords(t *testing.T) {
	for want, words := range map[string][]string{
		`/a/appfw netns web`:                    {"/a/appfw", "netns", "web"},
		`"" "a b" 100%% $$HOME`:                 {"", "a b", "100%", "$HOME"},
		`"a\nExecStartPre=/b\r" "\"" "\\n" ";"`: {"a\nExecStartPre=/b\r", `"`, `\n`, ";"},
	} {
		if got := quoteWords(words...); got != want {
			t.Errorf("%q: %s, want %s", words, got, want)
		}
	}
}
