package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"appfw/testdata/internet"
)

// prompt is that of shell: what appfw says may follow it.
const prompt = `(?m)^\$ `

// shell starts an interactive shell on a terminal, by the command before it.
func (w *world) shell(command ...string) (s *terminal, c *internet.Cmd) {
	w.t.Helper()
	command = append(command, "bash", "--norc", "--noprofile", "-i")
	c = w.Command(w.t.Context(), w.user, command[0], command[1:]...)
	c.Env = append(append(c.Env, raceEnv...), "PS1=$ ", "TERM=dumb", "INPUTRC=/dev/null")
	s = newTerminal(w.t, c)
	s.expect(prompt)
	return s, c
}

var allowSites = []string{"--allow", "example.com", "--allow", "web.example", "--allow", "endless.example"}

// sites makes what these flags allow: a repository, and a page without an end.
func (w *world) sites() {
	w.t.Helper()
	bare := filepath.Join(w.Dir(), "www/repo.git")
	w.make("sh", "-ec", `export HOME="$0" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
		git init -q --bare -b main "$1"; cd "$1"
		git update-ref refs/heads/main "$(git commit-tree -m first "$(git mktree </dev/null)")"; git update-server-info`, w.Dir(), bare)
	w.nginx()
	w.Host("11.22.0.43").Name("endless.example").ServeTCP(80, func(c net.Conn) {
		fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nand so on\n")
		_, _ = io.Copy(io.Discard, c) // until the client goes
	})
}

// covers fails the test unless what the shell starts reaches the sites, hears at once
// that it reaches nothing else, and has the keys.
func (s *terminal) covers() {
	s.t.Helper()
	says := func(command, shows string) (took time.Duration) {
		s.t.Helper()
		started := time.Now()
		s.send(command + "\n")
		s.expect(shows)
		s.expect(prompt)
		return time.Since(started)
	}
	for command, shows := range map[string]string{
		"curl -sS https://example.com":                               "hello from example.com",
		"dig +short example.com":                                     `11\.22\.0\.10`,
		"git ls-remote https://web.example/repo.git":                 "refs/heads/main",
		"setsid -w sh -c 'curl -sS http://example.com | cat & wait'": "hello from example.com",
	} {
		says(command, shows)
	}
	for command, shows := range map[string]string{
		"curl -sS https://other.example":                            notFound,
		"curl -sS http://11.22.0.20":                                "Couldn't connect to server",
		"dig other.example":                                         "status: NXDOMAIN",
		"git ls-remote https://other.example/repo.git":              notFound,
		"setsid -w sh -c 'curl -sS http://11.22.0.20 | cat & wait'": "Couldn't connect to server",
	} {
		if took := says(command, shows); took > failFast {
			s.t.Errorf("%s took %v", command, took)
		}
	}
	s.send("curl -sSN http://endless.example\n")
	s.expect(`\nand so on\r\n`)
	s.send(ctrlZ)
	s.expect("Stopped")
	s.expect(prompt)
	s.send("kill %1; wait; curl -sSN http://endless.example\n")
	s.expect(`\nand so on\r\n`)
	s.send(ctrlC)
	s.expect(prompt)
	s.send("echo code=$?; curl -sS http://example.com\n")
	s.expect(`\ncode=130\r\nhello from example\.com\r\n`)
}

// All that an interactive shell under appfw starts is under its policy.
func TestShell(t *testing.T) {
	both(t, func(w *world) {
		w.sites()
		s, appfw := w.shell(append(append([]string{program, "proxy-run"}, allowSites...), "--")...)
		s.covers()
		w.untouched(w.other)
		s.send("exit 7\n")
		_ = appfw.Wait()
		if code := appfw.ProcessState.ExitCode(); code != 7 {
			t.Errorf("exit code %d", code)
		}
	})
}

// So is what one starts in a namespace that was made by hand, while appfw is attached.
func TestAttachShell(t *testing.T) {
	both(t, func(w *world) {
		w.sites()
		unshare := []string{"unshare", "--net"}
		if w.user.UID != 0 {
			unshare = []string{"unshare", "-r", "--net"}
		}
		s, shell := w.shell(unshare...)
		s.send("curl -sS http://11.22.0.10\n")
		s.expect(`Couldn't connect`)
		a := w.start(append([]string{"attach", "--pid", fmt.Sprint(shell.Process.Pid)}, allowSites...)...)
		a.await(a.err, served)
		s.covers()
		w.untouched(w.other)
		a.says("appfw: denied dns other.example: no rule allows it", "appfw: denied tcp 11.22.0.20:80: no rule allows it")
		s.send("exit\n")
		if code := a.end(); code != 0 {
			t.Errorf("it ended with %d: %s", code, a.err)
		}
	})
}
