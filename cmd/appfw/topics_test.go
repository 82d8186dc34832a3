package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"appfw/cmd/manual"
)

// What the topics show is what happens: their commands are run, in the order in which they
// stand, with the files that they show. "..." in what is shown stands for anything.
func TestTopics(t *testing.T) {
	topics, err := manual.Topics()
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		t.Run(topic.Name, func(t *testing.T) {
			w := newWorld(t)
			w.user = w.Ordinary()
			ran := 0
			for _, e := range topic.Examples() {
				switch e.Kind {
				case "policy":
					writeShown(w, e.Text)
				case "console":
					ran += runShown(w, e.Text)
				default:
					t.Errorf("an example of the unknown kind %q", e.Kind)
				}
			}
			if ran == 0 {
				t.Error("the topic shows nothing that is run")
			}
		})
	}
}

// writeShown writes a file that its first line names.
func writeShown(w *world, text string) {
	w.t.Helper()
	name := regexp.MustCompile(`^# ([a-z]+\.policy):`).FindStringSubmatch(text)
	if name == nil {
		w.t.Fatalf("a file does not say its name:\n%s", text)
	}
	if err := os.WriteFile(filepath.Join(w.user.Home, name[1]), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// runShown runs each command after "$ ", and says how many there were.
func runShown(w *world, text string) (n int) {
	w.t.Helper()
	for part := range strings.SplitSeq("\n"+text, "\n$ ") {
		if part == "" {
			continue
		}
		n++
		command, want, _ := strings.Cut(part, "\n")
		c := w.Command(w.t.Context(), w.user, "bash", "-c", "exec 2>&1; "+command)
		c.Env[0] += ":" + filepath.Dir(program)
		got := w.finish(c).stdout
		want = strings.TrimRight(want, "\n")
		if want != "" {
			want += "\n"
		}
		pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*") + "$"
		if !regexp.MustCompile(pattern).MatchString(got) {
			w.t.Errorf("$ %s\n%s\nshown is\n%s", command, got, want)
		}
	}
	return n
}

// The man pages are as the programs that set them want them, and no command is without one.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command(program, "write-share", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"man1/appfw.1", "man1/appfw-proxy-run.1", "man1/appfw-run.1", "man1/appfw-systemd-netns.1", "man5/appfw.policy.5", "man7/appfw-names.7"} {
		if _, err := os.Stat(filepath.Join(dir, "man", name)); err != nil {
			t.Error(err)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "man/man[0-9]/*"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		for _, check := range [][]string{
			{"mandoc", "-T", "lint", "-W", "warning"},
			{"groff", "-man", "-ww", "-z", "-K", "utf8"},
			{"man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"},
		} {
			c := exec.Command(check[0], append(check[1:], page)...)
			var stderr strings.Builder
			c.Stderr = &stderr
			out, err := c.Output()
			if check[0] == "mandoc" {
				stderr.Write(out)
			}
			if err != nil || stderr.Len() > 0 {
				t.Errorf("%s %s: %v\n%s", check[0], filepath.Base(page), err, stderr.String())
			}
		}
	}
}
