package main

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var hinted = regexp.MustCompile(`\((?:to allow|to go out by this proxy of the environment): (.*)\)`)

// follow runs a command, and again with what the first new hint of appfw's says, until it
// works. It is an error if that takes more than a number of steps.
func (w *world) follow(steps int, env, flags []string, command ...string) (hints []string) {
	w.t.Helper()
	for {
		args := append(slices.Concat(env, []string{program, "run"}, flags, []string{"--"}), command...)
		r := w.finish(w.Command(w.t.Context(), w.user, "env", args...))
		if r.code == 0 {
			return hints
		}
		found := hinted.FindStringSubmatch(r.stderr)
		if found == nil || len(hints) == steps {
			w.t.Errorf("%q: after %q: %+v", command, hints, r)
			return hints
		}
		hints = append(hints, found[1])
		flags = append(flags, strings.Fields(found[1])...)
	}
}

// Each hint leads to where it works, in two steps at most.
func TestHintsLead(t *testing.T) {
	both(t, func(w *world) {
		proxy := w.Host("11.22.0.70").Name("proxy.corp.example")
		proxy.ServeHTTP(3128, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = rw.Write([]byte("by the proxy\n")) }))
		w.Host("11.22.0.71").Name("web.corp.example").ServeHTTP(80, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _, _ = rw.Write([]byte("web\n")) }))
		w.SetFile("/etc/resolv.conf", "nameserver "+w.Resolver4().String()+"\nsearch corp.example\n")
		get := func(args ...string) []string { return append([]string{"curl", "-fsS", "--max-time", "20"}, args...) }

		w.follow(2, nil, nil, get("http://web/")...)
		w.follow(2, nil, nil, get("http://example.com/")...)
		w.follow(1, nil, []string{"--allow", "example.com:443"}, get("http://example.com/")...)
		// As nginx with proxy_set_header Host.
		w.follow(2, nil, []string{"--allow", "example.com"}, get("-H", "Host: www.public.example", "http://example.com/")...)
		w.follow(2, nil, []string{"--allow", "example.com", "--allow", "www.public.example"}, get("-H", "Host: www.public.example", "http://example.com/")...)

		for _, env := range []string{"http_proxy=http://proxy.corp.example:3128", "http_proxy=11.22.0.70:3128", "ALL_PROXY=http://user:secret@proxy.corp.example:3128/"} {
			for _, flags := range [][]string{{"--allow", "other.example"}, {"--allow", "other.example", "--allow", "proxy.corp.example"}} {
				args := append(slices.Concat([]string{env, program, "run"}, flags, []string{"--"}), get("http://other.example/")...)
				r := w.finish(w.Command(t.Context(), w.user, "env", args...))
				if !strings.Contains(r.stderr, "environment: --proxy-env --upstream http://") && !(len(flags) == 4 && strings.HasPrefix(env, "http_proxy=1")) && r.code != 0 {
					t.Errorf("%s, %q: %s", env, flags, r.stderr)
				}
				if strings.Contains(r.stderr, "secret") {
					t.Error(r.stderr)
				}
			}
		}

		// A policy in a file is that to change.
		file := w.write("my.policy", "allow example.com:443\n")
		r := w.run("--policy", file, "--", "curl", "-sS", "http://other.example/")
		wants(t, r.stderr, "(to allow: allow other.example in "+file+")")
		r = w.run("--policy", file, "--", "curl", "-sS", "http://example.com/")
		wants(t, r.stderr, "(to allow: allow example.com:80 in "+file+")")
		r = w.run("--", "sh", "-c", "echo x | ncat -u -w1 "+netip.AddrPortFrom(w.example.Addr4(), 99).Addr().String()+" 99")
		wants(t, r.stderr, "--allow 11.22.0.10:99/udp")
	})
}
