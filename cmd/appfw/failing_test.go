package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A name that does not exist, or that no resolver answers for, is told of as such, once,
// and in the log.
func TestNamesThatFail(t *testing.T) {
	both(t, func(w *world) {
		w.SetFile("/etc/resolv.conf", "nameserver "+w.Resolver4().String()+"\nsearch corp.example sub.corp.example\n")
		log := filepath.Join(w.user.Home, "log.json")
		r := w.run("--log", log, "--default", "allow", "--", "sh", "-c", `for n in missing.example missing.example web; do getent ahosts $n; done; getent ahosts example.com >/dev/null`)
		if r.code != 0 {
			t.Errorf("%+v", r)
		}
		const missing = "appfw: cannot resolve missing.example: the name does not exist\n"
		if strings.Count(r.stderr, missing) != 1 || strings.Contains(r.stderr, "missing.example.") || !strings.Contains(r.stderr, "cannot resolve web.corp.example: the name does not exist") {
			t.Error(r.stderr)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for line := range strings.Lines(string(text)) {
			switch {
			case strings.Contains(line, `"name":"missing.example"`):
				wants(t, line, `"rcode":"NXDOMAIN"`, `"error":"the name does not exist"`)
				told++
			case strings.Contains(line, `"name":"example.com"`) && (strings.Contains(line, "rcode") || strings.Contains(line, "error")):
				t.Error(line)
			}
		}
		if told == 0 {
			t.Errorf("%s", text)
		}
		// No resolver answers.
		w.SetFile("/etc/resolv.conf", "nameserver 127.0.0.7\n")
		r = w.run("--log", "-", "--allow", "example.com", "--", "getent", "ahosts", "example.com")
		wants(t, r.stderr, "appfw: cannot resolve example.com: the resolvers failed", `"rcode":"SERVFAIL"`, `"error":"the resolvers failed`)
	})
}

// The log names an upstream by its name, or by its URL without the password.
func TestLoggedUpstream(t *testing.T) {
	both(t, func(w *world) {
		r := w.run("--log", "-", "--upstream", "socks5h://user:secret@11.22.0.10:9", "--allow", "example.com", "--", "curl", "-sS", "http://example.com")
		wants(t, r.stderr, `"via":"socks5h://`, `11.22.0.10:9"`)
		if strings.Contains(r.stderr, "secret") {
			t.Error(r.stderr)
		}
		r = w.run("--log", "-", "--upstream", "office=http://11.22.0.10:9", "--allow", "example.com via=office", "--", "curl", "-sS", "http://example.com")
		wants(t, r.stderr, `"via":"office"`)
	})
}
