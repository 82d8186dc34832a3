package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
)

// file is an empty file for lines.
func file(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// said is what is in a file, which is empty then.
func said(t testing.TB, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// audience is people with the file of what they were told.
func audience(t testing.TB) *people {
	return &people{file: file(t), explain: policy.Verdict.Reason, seen: make(map[string]time.Time), send: func(string, sdjournal.Priority, map[string]string) error {
		t.Error("systemd's journal was told")
		return nil
	}}
}

func question(name, typ string, v policy.Verdict, failed bool) *item {
	return &item{at: noon, kind: ofQuestion, question: dnsguard.Question{Name: name, Type: typ, Verdict: v, Failed: failed}}
}

func TestPeople(t *testing.T) {
	p := audience(t)
	p.search = []string{"corp.example", "lab.example."}
	p.explain = func(v policy.Verdict) string { return v.Reason() + " (to allow: nothing)" }
	none, allowed := policy.Denial("no rule allows it"), policy.Verdict{Action: policy.Allow}.Because("no server answered")
	flow := denialOf(1)
	shown := item{flow: Event{Verdict: none, Allowed: true, Proto: "tcp", Dst: at("192.0.2.1:443"), Name: "a\x1b[31m\nb\u202e\xff"}}
	for _, x := range []*item{
		&flow, &flow, &shown, &shown,
		question("ads.example", "A", none, false), question("ads.example", "AAAA", none, false),
		question("ads.example.corp.example", "A", none, false), question("ads.example.lab.example", "A", none, false), // the library tries these
		question("other.corp.example", "A", none, false),
		question("down.example", "AAAA", allowed, true), question("down.example", "A", allowed, true), question("down.example", "A", allowed, true),
		question("down.example.corp.example", "A", allowed, true),
		{kind: ofNote, text: "allow-unix does nothing"}, {kind: ofNote, text: "allow-unix does nothing"},
		{kind: ofReload, text: "the policy was read anew"}, {kind: ofReload, text: "the policy was read anew"},
		{kind: ofWords, text: "some\rwords"}, {kind: ofReopen},
	} {
		p.tell(x)
	}
	p.leftOut(lost{3, 0})
	want := `appfw: denied tcp 10.0.0.1:80: no rule allows it (to allow: nothing)
appfw: denied tcp a\x1b[31m\nb\u202e` + "\ufffd" + `:443: no rule allows it (to allow: nothing)
appfw: denied dns ads.example: no rule allows it (to allow: nothing)
appfw: denied dns other.corp.example: no rule allows it (to allow: nothing)
appfw: cannot resolve down.example: no server answered
appfw: note: allow-unix does nothing
appfw: the policy was read anew
appfw: the policy was read anew
appfw: some\rwords
appfw: left out here, as nobody read in time: 3 denials
`
	if got := said(t, p.file); got != want {
		t.Errorf("%s not\n%s", got, want)
	}
}

// Destinations are remembered with a bound, and the one beyond is said to be the last.
func TestPeopleMany(t *testing.T) {
	p := audience(t)
	for i := range maxReported + 100 {
		x := denialOf(i)
		p.tell(&x)
	}
	lines := strings.SplitAfter(said(t, p.file), "\n")
	if want := "appfw: too many lines like these; no more are printed (--log has them all)\n"; len(lines) != maxReported+2 || lines[maxReported] != want {
		t.Errorf("%d lines, the last %q", len(lines)-1, lines[len(lines)-2])
	}
	p.leftOut(lost{denials: 10}) // they would not have been printed
	p.leftOut(lost{others: 1})
	if got := said(t, p.file); got != "appfw: left out here, as nobody read in time: 1 other\n" {
		t.Errorf("%q", got)
	}
	if p.tell(&item{flow: Event{Verdict: policy.Denial(strings.Repeat("\x00", 1<<20)), Proto: strings.Repeat("x", 1<<20)}}); len(p.seen) != maxReported+1 {
		t.Errorf("%d are remembered", len(p.seen))
	}
}

// A line is bounded, and so is what is remembered of it.
func TestPeopleLong(t *testing.T) {
	p := audience(t)
	p.tell(&item{flow: Event{Verdict: policy.Denial(strings.Repeat("世", 1<<20)), Proto: strings.Repeat("x", 1<<20)}})
	if got := said(t, p.file); len(got) != len("appfw: ")+maxPrinted+1 {
		t.Errorf("%d bytes", len(got))
	}
	for what := range p.seen {
		if len(what) != maxPrinted {
			t.Errorf("%d bytes are remembered", len(what))
		}
	}
}

// systemd's journal gets fields, and lines again after a while; without it, stderr does.
func TestPeopleSystem(t *testing.T) {
	type entry struct {
		text   string
		fields map[string]string
	}
	var entries []entry
	var failed error
	p := audience(t)
	p.system, p.run = true, "r"
	p.send = func(text string, priority sdjournal.Priority, fields map[string]string) error {
		if priority != sdjournal.PriWarning {
			t.Errorf("priority %d", priority)
		}
		entries = append(entries, entry{text, fields})
		return failed
	}
	x := item{at: noon, count: 3, flow: Event{Flow: 9, Verdict: policy.Denial("no rule allows it"), Proto: "tcp", Dst: at("192.0.2.1:80"), Name: "a\x1b\nb"}}
	for _, after := range []time.Duration{0, 1, reportAgain, 1} {
		x.at = x.at.Add(after)
		p.tell(&x)
	}
	want := entry{`denied tcp a\x1b\nb:80: no rule allows it`, map[string]string{
		"APPFW_EVENT": "decision", "APPFW_VERDICT": "deny", "APPFW_DIRECTION": "out", "APPFW_PROTO": "tcp", "APPFW_ADDR": "192.0.2.1", "APPFW_PORT": "80",
		"APPFW_NAME": "a\x1b\nb", "APPFW_REASON": "no rule allows it", "APPFW_COUNT": "3", "APPFW_FLOW": "9", "APPFW_RUN": "r",
	}}
	if len(entries) != 2 || !reflect.DeepEqual(entries[0], want) || !reflect.DeepEqual(entries[1], want) {
		t.Errorf("%+v, not %+v", entries, want)
	}
	failed = errors.New("there is no journal")
	p.tell(question("ads.example", "A", policy.Denial("no rule allows it"), false))
	p.tell(&item{kind: ofWords, text: "words"})
	if got := said(t, p.file); got != "appfw: denied dns ads.example: no rule allows it\nappfw: words\n" || len(entries) != 3 {
		t.Errorf("%q", got)
	}
	failed = nil
	for i := range maxReported + 100 { // it goes on for months: it forgets, and goes on
		x := denialOf(i)
		p.tell(&x)
	}
	if len(entries) != 3+maxReported+100 || len(p.seen) > maxReported+1 || said(t, p.file) != "" {
		t.Errorf("%d entries; %d are remembered", len(entries), len(p.seen))
	}
}

// pty is a pseudo-terminal: what is written to tty is read from the other end.
func pty(t *testing.T) (other, tty *os.File) {
	t.Helper()
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals: ", err)
	}
	n, err := unix.IoctlGetInt(int(other.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(other.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close(); tty.Close() })
	return other, tty
}

// Lines end where they should, whatever mode the app put the terminal into.
func TestPeopleTerminal(t *testing.T) {
	other, tty := pty(t)
	mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	p := audience(t)
	p.file = tty
	for _, raw := range []bool{false, true} {
		mode.Lflag |= unix.TOSTOP // of other sessions it stops nobody
		if mode.Oflag |= unix.OPOST; raw {
			mode.Oflag &^= unix.OPOST
		}
		if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, mode); err != nil {
			t.Fatal(err)
		}
		p.print("words")
		b := make([]byte, 100)
		if n, err := other.Read(b); string(b[:n]) != "appfw: words\r\n" {
			t.Errorf("raw: %v: %q, %v", raw, b[:n], err)
		}
	}
}
