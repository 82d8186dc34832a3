package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/journal"
)

// The table explains itself.
const evasionTable = "../../testdata/evasions/table.txt"

// evasion is a row of the table, or what the rows of a group have in common: what follows each word.
type evasion struct {
	name  string
	words map[string][]string
}

// evasionWords are all there are. Those that are true may be repeated.
var evasionWords = map[string]bool{
	"for": false, "policy": false, "run": false, "watch": true, "control": false, "lacking": false,
	"zone": true, "turns": true, "forged": true,
	"denied": true, "fails": false, "harmless": false, "works": false,
}

// endings are the words for how an attempt ends, of which a row has one.
var endings = []string{"denied", "fails", "harmless", "works"}

// ends is how many of them the row has.
func (e *evasion) ends() (n int) {
	for _, word := range endings {
		if e.has(word) {
			n++
		}
	}
	return n
}

func (e *evasion) has(word string) bool { return e.words[word] != nil }

// one is what follows a word that is not repeated.
func (e *evasion) one(word string) string { return strings.Join(e.words[word], "") }

// readEvasions reads the table. What is not understood is an error.
func readEvasions(text string) (rows []*evasion, err error) {
	var group, at *evasion
	var last *string // that an indented line continues
	number := 0
	for line := range strings.Lines(text) {
		number++
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		repeats, known := evasionWords[word]
		switch {
		case word == "", strings.HasPrefix(line, "#"):
			last = nil
		case line[0] == ' ' && last != nil:
			*last += "\n" + strings.TrimSpace(line)
		case word == "=":
			if err := finish(&rows, group, at); err != nil {
				return nil, err
			}
			group = &evasion{rest, map[string][]string{}}
			at, last = group, nil
		case word == "-" && group != nil:
			if err := finish(&rows, group, at); err != nil {
				return nil, err
			}
			at, last = &evasion{rest, map[string][]string{}}, nil
		case at == nil, !known, at.has(word) && !repeats:
			return nil, fmt.Errorf("line %d: %q is not understood here", number, word)
		default:
			at.words[word] = append(at.words[word], rest)
			last = &at.words[word][len(at.words[word])-1]
		}
	}
	return rows, finish(&rows, group, at)
}

// finish adds a row: what it does not say itself its group says; and for each of several things, if it has the word.
func finish(rows *[]*evasion, group, row *evasion) error {
	if row == group {
		return nil
	}
	own := row.ends() > 0
	for word, values := range group.words {
		if !row.has(word) && !(own && slices.Contains(endings, word)) && !(row.has("works") && word == "control") {
			row.words[word] = values
		}
	}
	if row.ends() != 1 || !row.has("policy") || !row.has("run") || !row.has("watch") || row.has("control") == row.has("works") {
		return fmt.Errorf("the row %q of %q is not complete", row.name, group.name)
	}
	row.name = group.name + "/" + row.name
	if !row.has("for") {
		*rows = append(*rows, row)
		return nil
	}
	for _, each := range strings.Fields(row.one("for")) {
		one := &evasion{row.name + " " + each, map[string][]string{}}
		for word, values := range row.words {
			for _, v := range values {
				one.words[word] = append(one.words[word], strings.ReplaceAll(v, "{}", each))
			}
		}
		*rows = append(*rows, one)
	}
	return nil
}

// TestEvasions tries each row of the table, and that it would be noticed if the attempt succeeded.
func TestEvasions(t *testing.T) {
	text, err := os.ReadFile(evasionTable)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := readEvasions(string(text))
	if err != nil {
		t.Fatalf("%s: %v", evasionTable, err)
	}
	for _, user := range []string{"root", "ordinary"} {
		t.Run(user, func(t *testing.T) {
			t.Parallel() // most of the time goes by waiting
			w := newWorld(t)
			if user == "ordinary" {
				w.user = w.Ordinary()
			}
			far := newFarSide(w)
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) { far.in(t).try(row) })
			}
		})
	}
}

// try tries a row. Its control is about the far side and the program, and so is done once.
func (f *farSide) try(e *evasion) {
	watches := f.watches(e)
	if !e.has("works") {
		f.attempt(e, watches)
	}
	if e.has("works") || f.user.UID != 0 {
		f.control(e, watches)
	}
}

func TestEvasionsNotUnderstood(t *testing.T) {
	const group, row = "= g\npolicy x\nwatch y\n", "- r\nrun z\ncontrol c\nfails\n"
	if rows, err := readEvasions(group + "\n# comment\n" + row + "  more\n- s\nfor 1 2\nrun {}\nworks\n"); err != nil || len(rows) != 3 || rows[2].one("run") != "2" {
		t.Errorf("%v, %v", rows, err)
	}
	for _, bad := range []string{
		"policy x\n", "- r\n", group + "- r\n", group + row + "fails\n", group + row + "denied d\n", group + row + "nonsense\n",
		group + row + "- s\nrun z\ncontrol c\n", group + row + "- s\nrun z\nfails\n", group + row + "- s\nrun z\nworks\ncontrol c\n",
	} {
		if _, err := readEvasions(bad); err == nil {
			t.Errorf("no error: %s", bad)
		}
	}
}

// shell is a command for a script of the table, in which probe runs one of probes. It ends even if it succeeds, and
// nobody answers.
func shell(script string) []string {
	return []string{"timeout", "--foreground", "3", "sh", "-c", `probe() { what=$1; shift; APPFW_PROBE=$what "$0" "$@"; }` + "\n" + script, probeProgram}
}

// attempt tries what a row does, under its policy.
func (f *farSide) attempt(e *evasion, watches []*watch) {
	f.setZone(e)
	rebase(watches)
	path := filepath.Join(f.user.Home, "evasion.json")
	_ = os.Remove(path) // that of the row before
	args := append(strings.Fields(e.one("policy")), "--log", path, "--")
	r := f.run(append(args, shell(e.one("run"))...)...)
	text, err := os.ReadFile(path)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.lacking(e, r.stdout+r.stderr) {
		return
	}
	for _, x := range watches {
		if n := x.arrived(); n != 0 {
			f.t.Errorf("watch %s: %d arrived", x.what, n)
		}
	}
	if failed := r.code != 0; failed == e.has("harmless") {
		f.t.Errorf("exit code %d", r.code)
	}
	if r.took > failFast {
		f.t.Errorf("it took %v", r.took)
	}
	log := readLog(f.t, string(text))
	for _, want := range e.words["denied"] {
		if !strings.Contains(r.stderr, "appfw: denied "+want) {
			f.t.Errorf("stderr does not say %q", want)
		}
		if !slices.ContainsFunc(log, func(rec journal.Record) bool { return rec.Verdict == "deny" && strings.HasPrefix(denialOf(rec), want) }) {
			f.t.Errorf("the log does not say %q", want)
		}
	}
	if f.t.Failed() {
		f.t.Logf("policy %s\nrun %s\nexit code %d after %v\nstdout: %s\nstderr: %s\nlog: %s", e.one("policy"), e.one("run"), r.code, r.took, r.stdout, r.stderr, text)
	}
}

// lacking tells whether the program says that this kernel cannot do what it tries.
func (f *farSide) lacking(e *evasion, output string) bool {
	lacks := e.has("lacking") && strings.Contains(output, e.one("lacking"))
	if lacks {
		f.t.Logf("this kernel cannot: %s", output)
	}
	return lacks
}

// denialOf is a record as stderr has it.
func denialOf(r journal.Record) string {
	what := "dns " + r.Name
	if r.Event != "dns" {
		addr, _ := netip.ParseAddr(r.Addr) // none for a packet that has no destination
		what = r.Proto + " " + journal.Destination(r.Name, netip.AddrPortFrom(addr, r.Port))
	}
	return printable(what) + ": " + printable(r.Reason)
}

// control does the same where nothing keeps it from the far side, until it is there.
func (f *farSide) control(e *evasion, watches []*watch) {
	policy, _, none := strings.Cut(e.one("control"), "none: ")
	if none {
		return
	}
	if e.has("works") {
		policy = e.one("policy")
	}
	command := shell(e.one("run"))
	if policy != "without appfw" {
		command = slices.Concat([]string{program, "run"}, strings.Fields(policy), []string{"--"}, command)
	}
	f.setZone(e)
	rebase(watches)
	reached := func() bool {
		return !slices.ContainsFunc(watches, func(x *watch) bool { return x.arrived() == 0 })
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	c := f.Command(ctx, f.user, command[0], command[1:]...)
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	c.SysProcAttr.Setpgid = true
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait() // how it ended does not matter
	}()
	for running := true; running && !reached(); {
		select {
		case <-ended:
			running = false
		case <-time.After(2 * time.Millisecond): // packets do not tell
		}
	}
	_ = unix.Kill(-c.Process.Pid, unix.SIGTERM) // gone, perhaps
	<-ended
	if !reached() && !f.lacking(e, output.String()) {
		f.t.Errorf("control: %s does not reach it\nrun %s\n%s", policy, e.one("run"), &output)
	}
	// The last packets of its connections are not the next row's.
	for quiet := false; !quiet; {
		rebase(watches)
		time.Sleep(10 * time.Millisecond)
		quiet = !slices.ContainsFunc(watches, func(x *watch) bool { return x.arrived() != 0 })
	}
}
