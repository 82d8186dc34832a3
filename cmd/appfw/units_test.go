package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Units are written, and removed again, and nothing else is touched.
func TestUnits(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.Dir(), "units")
	for name, text := range map[string]string{"a.service": "[Service]\nExecStart=true\n", "b@.service": "[Service]\nExecStart=true\n", "a.service.d/mine.conf": "# mine\n"} {
		w.write("units/"+name, text)
	}
	policy := w.write("a.policy", "allow example.com\n")
	const installed = "/usr/local/bin/appfw"
	files := func() (all []string) {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, _ error) error {
			if d.Type().IsRegular() {
				all = append(all, strings.TrimPrefix(path, dir+"/"))
			}
			return nil
		})
		slices.Sort(all)
		return all
	}
	same := func(want ...string) {
		t.Helper()
		if got := files(); !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q", got, want)
		}
	}
	systemd := func(args ...string) result {
		t.Helper()
		return w.finish(w.Command(t.Context(), w.user, program, append([]string{"systemd", args[0], "--directory", dir, "--program", installed}, args[1:]...)...))
	}
	untouched := []string{"a.service", "a.service.d/mine.conf", "b@.service"}

	out := w.ok(systemd("proxy", "a", "--policy", policy, "--dry-run", "--listen", "127.100.90.50:1080"))
	wants(t, out, "# "+dir+"/a.service.d/zz-appfw.conf\n", "IPAddressDeny=any\nIPAddressAllow=127.100.90.50\n", "InaccessiblePaths=-+/run/dbus ",
		"ListenStream=127.100.90.50:1080\n",
		"Environment=ALL_PROXY=http://127.100.90.50:1080 all_proxy=", "ExecStart="+installed+" serve --policy "+policy+"\n")
	same(untouched...)

	w.ok(systemd("proxy", "a", "--policy", policy))
	w.ok(systemd("proxy", "a.service", "--policy", policy)) // again
	same("a.service", "a.service.d/mine.conf", "a.service.d/zz-appfw.conf", "appfw-check@.service", "appfw-serve@a.service", "appfw-serve@a.socket", "b@.service")
	wants(t, w.ok(systemd("proxy", "a", "--remove", "--dry-run")), "would remove "+dir+"/appfw-serve@a.socket\n")
	w.ok(systemd("proxy", "a", "--remove"))
	same(untouched...)

	// Two units share a namespace; it stays until both have left.
	w.ok(systemd("netns", "a", "--policy", policy, "--name", "shared", "--publish", "0.0.0.0:80:80"))
	served := string(mustRead(t, filepath.Join(dir, "appfw-netns@shared.service")))
	wants(t, served, "\nExecStart="+installed+" netns shared --policy "+policy+" --publish 0.0.0.0:80:80\n")
	w.denied(systemd("netns", "b@x.service", "--policy", policy, "--name", "shared"), "serves this namespace already, with another policy or other ports: to join it, say neither --policy nor --publish")
	w.ok(systemd("netns", "b@x.service", "--name", "shared"))
	if string(mustRead(t, filepath.Join(dir, "appfw-netns@shared.service"))) != served {
		t.Error("who joins changes how it is served")
	}
	w.ok(systemd("netns", "a", "--remove"))
	same("a.service", "a.service.d/mine.conf", "appfw-check@.service", "appfw-netns@shared.service", "appfw-netns@shared.target", "b@.service", "b@x.service.d/zz-appfw.conf")
	w.ok(systemd("netns", "b@x", "--remove"))
	same(untouched...)

	// From one way to the other, nothing of the first is left.
	w.ok(systemd("proxy", "a", "--policy", policy))
	wants(t, w.ok(systemd("netns", "a", "--policy", policy)), "removed "+dir+"/appfw-serve@a.socket\n")
	same("a.service", "a.service.d/mine.conf", "a.service.d/zz-appfw.conf", "appfw-check@.service", "appfw-netns@a.service", "appfw-netns@a.target", "b@.service")
	w.ok(systemd("netns", "a", "--remove"))
	same(untouched...)

	// What a former version wrote, by a name that others sort behind, goes.
	former := filepath.Join(dir, "a.service.d/50-appfw.conf")
	for _, args := range [][]string{{"proxy", "a", "--policy", policy}, {"proxy", "a", "--remove"}} {
		w.ok(systemd("proxy", "a", "--policy", policy))
		if err := os.Rename(filepath.Join(dir, "a.service.d/zz-appfw.conf"), former); err != nil {
			t.Fatal(err)
		}
		wants(t, w.ok(systemd(args...)), "removed "+former+"\n")
	}
	same(untouched...)
	wants(t, w.ok(systemd("proxy", "a", "--remove")), "nothing is written for a.service\n")

	theirs := w.write("units/a.service.d/zz-appfw.conf", "# theirs\n")
	taken := []string{"a.service", "a.service.d/mine.conf", "a.service.d/zz-appfw.conf", "b@.service"}
	bad := w.write("bad.policy", "alow example.com\n")
	for want, args := range map[string][]string{
		theirs + " is there, and not written by appfw; it is left as it is":                 {"proxy", "a", "--policy", policy},
		theirs + " is not written by appfw; it is left as it is":                            {"netns", "a", "--remove"},
		"there is no unit nosuch.service":                                                   {"netns", "nosuch", "--policy", policy},
		`"../a.service" is not the name of a service`:                                       {"netns", "../a", "--policy", policy},
		`"a.socket" is not the name of a service`:                                           {"proxy", "a.socket", "--policy", policy},
		"which policy is not said (--policy FILE)":                                          {"proxy", "a"},
		bad + `:1:1: "alow": unknown word (did you mean allow?)`:                            {"proxy", "a", "--policy", bad},
		"--listen 10.0.0.1:1080: others than this host could use it":                        {"proxy", "b@x", "--policy", policy, "--listen", "10.0.0.1:1080"},
		`"a/b" is no name for a namespace of units (--name)`:                                {"netns", "b@x", "--policy", policy, "--name", "a/b"},
		"--program appfw: units start programs by an absolute path":                         {"proxy", "b@x", "--policy", policy, "--program", "appfw"},
		"--listen 127.0.0.1:1080: the service would reach all that listens at this address": {"proxy", "b@x", "--policy", policy, "--listen", "127.0.0.1:1080"},
		"--publish 80: there are two ports":                                                 {"netns", "b@x", "--policy", policy, "--publish", "80"},
	} {
		w.denied(systemd(args...), want)
		same(taken...)
	}
	// Where it cannot write, it leaves nothing half done.
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	w.user = w.Ordinary()
	w.denied(systemd("netns", "a", "--policy", policy), "permission denied")
	same(untouched...)
}
