package manual

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"appfw/policy"
)

// Every file is a topic, says first what its reader wants, and fits a terminal.
func TestTopicFiles(t *testing.T) {
	entries, err := files.ReadDir("topics")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Errorf("%d files, and %d topics", len(entries), len(names))
	}
	topics, err := Topics()
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		if len(topic.blocks) < 3 || topic.blocks[0].kind != paragraph || !strings.HasPrefix(topic.blocks[0].text, "You want ") {
			t.Errorf("%s does not begin with what its reader wants", topic.Name)
		}
		if len(topic.Examples()) == 0 {
			t.Errorf("%s has no example", topic.Name)
		}
		text := topic.Text()
		for line := range strings.Lines(text) {
			if len([]rune(line)) > width+1 && !strings.HasPrefix(line, "    ") {
				t.Errorf("%s: too wide: %s", topic.Name, line)
			}
			if strings.Contains(line, "**") {
				t.Errorf("%s: a mark is left: %s", topic.Name, line)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"# a\n\n```\nopen", "| a | b | c |", "| a |"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestPlain(t *testing.T) {
	blocks, err := parse("# t\n\nA `code` and **bold**\nline.\n\n- one\n  two\n- three\n\n| a | b |\n|---|---|\n| `x\\|y` | z |\n\n```sh\n$ x\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	const want = "T\n\nA code and bold line.\n\n- one two\n- three\n\n  x|y  z\n\n    $ x\n"
	if got := plain(blocks); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRoffEscape(t *testing.T) {
	for text, want := range map[string]string{
		"`.TH`":      `\fB.TH\fP`,
		".so /x":     `\&.so /x`,
		"'br":        `\&'br`,
		`a\b`:        `a\eb`,
		"well-known": "well-known",
		"--flag":     `\-\-flag`,
		"`it's -x`":  `\fBit\(aqs \-x\fP`,
		"…":          `\[u2026]`,
	} {
		if got := roffLine(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// A page has what mandoc(1) wants of one, whatever its command says.
func TestPages(t *testing.T) {
	root := &cobra.Command{Use: "appfw", Short: "Run a program", RunE: func(*cobra.Command, []string) error { return nil }}
	sub := &cobra.Command{Use: "why [flags] DEST", Short: "Tell why", Example: "  appfw why 'a'\n  .b", Run: func(*cobra.Command, []string) {}}
	sub.Flags().String("log", "", "write to `FILE`: http://…")
	root.AddCommand(sub)
	Register(root)
	dir := t.TempDir()
	if err := Write(root, dir); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(dir, "man/man1/appfw-why.1")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"appfw-why", "\\fB\\-\\-log FILE\\fP", "\\[u2026]", "\n\\&.b\n", ".BR appfw (1)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if out, err := exec.Command("mandoc", "-T", "lint", "-W", "warning", page).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}

// An example says how it is used, and is a policy.
func TestExamples(t *testing.T) {
	names, err := fs.Glob(examples, "examples/*.policy")
	if err != nil || len(names) < 4 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := examples.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\n#   ") {
			t.Errorf("%s does not say how it is used", name)
		}
		lines, err := policy.ReadLines(name, strings.NewReader(string(text)))
		if err == nil {
			_, err = policy.Compile(policy.Config{Lines: lines})
		}
		if err != nil {
			t.Error(err)
		}
	}
}
