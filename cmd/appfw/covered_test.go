package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ssh reads the configuration that it reads without appfw, whoever it belongs to.
func TestSSHConfig(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary() // to a run of root's, what is root's seems so
	own := filepath.Join(w.user.Home, ".ssh")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(own, int(w.user.UID), int(w.user.GID)); err != nil {
		t.Fatal(err)
	}
	w.SetFile("/etc/ssh/ssh_config", "Include /etc/ssh/ssh_config.d/*.conf\nInclude \"more/[ab].conf\"\n")
	w.SetFile("/etc/ssh/ssh_config.d/50-one.conf", "Match final all\n\tInclude /etc/crypto/back-ends/*.config\n")
	w.SetFile("/etc/crypto/back-ends/ssh.config", "SendEnv NESTED\nInclude=deep/deeper\n")
	w.SetFile("/etc/ssh/deep/deeper", "SendEnv DEEPER\n")
	w.SetFile("/etc/ssh/more/a.conf", "SendEnv MORE\n")
	managed := w.write("managed/config", "Host *.example\n\tUser managed\n\tInclude ~/.ssh/extra ${XDIR}/third\n")
	w.write("managed/extra", "Port 2022\n")
	w.write("managed/third", "SendEnv THIRD\n")
	for name, to := range map[string]string{"config": managed, "extra": filepath.Join(filepath.Dir(managed), "extra")} {
		if err := os.Symlink(to, filepath.Join(own, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDIR", "")
	show := `XDIR=` + filepath.Dir(managed) + ` "$@" ssh -G git.example 2>&1 | grep -iE '^(user|port|sendenv)|Bad|owner|recursive' | sort`
	out := w.aroundAsBare([]string{"-q"}, show)
	wants(t, out, "port 2022\n", "user managed\n", "sendenv MORE\n", "sendenv NESTED\n", "sendenv DEEPER\n")
	// What ssh refuses without appfw it refuses.
	if err := os.Chmod(managed, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := w.aroundAsBare([]string{"-q"}, show); !strings.Contains(out, "Bad owner or permissions") {
		t.Errorf("a configuration that everybody may write: %s", out)
	}
}

// withRun is a command that runs another on a host with a /run of its own, in which the
// user has a directory.
func (w *world) withRun(script string, command ...string) []string {
	u := w.user.UID
	prepare := fmt.Sprintf(`mount -t tmpfs -o mode=0755 tmpfs /run
		mkdir -p /run/user/%[1]d /run/docker /run/lock /run/closed; chmod 700 /run/user/%[1]d /run/docker; chmod 1777 /run/lock; chmod 711 /run/closed
		echo text >/run/file; echo text >/run/user/%[1]d/file; chmod 600 /run/user/%[1]d/file
		chown -R %[1]d:%[1]d /run/user/%[1]d; %[2]s
		export XDG_RUNTIME_DIR=/run/user/%[1]d; exec setpriv --reuid %[1]d --regid %[1]d --clear-groups "$@"`, u, script)
	return append([]string{"-m", "sh", "-ec", prepare, "sh"}, command...)
}

// What is covered has the modes that it has without appfw, and can be written as it can
// be without.
func TestCoveredLooksAlike(t *testing.T) {
	both(t, func(w *world) {
		for _, mode := range []string{"", "chmod 1777 /run", "chmod 500 /run/user/*", "chmod 2770 /run/user/*", "chmod 555 /run"} {
			if w.user.UID == 0 && strings.HasPrefix(mode, "chmod 5") {
				continue // root could write there by its capabilities
			}
			look := []string{"sh", "-c", `cd "$HOME"
				for f in /run /run/file /run/lock /run/closed "$XDG_RUNTIME_DIR" "$XDG_RUNTIME_DIR/file" /etc/hosts /etc/resolv.conf /etc/nsswitch.conf; do
					stat -c '%n %F %a' "$f"
					case $f in /etc/*) ;; *) if [ -w "$f" ]; then echo writable; fi; esac
				done
				[ -O "$XDG_RUNTIME_DIR" ] && echo own
				for d in /run /run/lock "$XDG_RUNTIME_DIR"; do if (: >"$d/made") 2>/dev/null; then echo "made $d/made"; fi; done
				cat /run/file "$XDG_RUNTIME_DIR/file"`}
			bare := w.finish(w.Command(t.Context(), w.Root(), "unshare", w.withRun(mode, look...)...))
			under := w.finish(w.Command(t.Context(), w.Root(), "unshare", w.withRun(mode, append([]string{program, "run", "-q", "--"}, look...)...)...))
			bare.stdout = strings.Replace(bare.stdout, "directory 2770", "directory 770", 1) // setgid is not kept
			if bare.code != 0 || under.code != 0 || under.stdout != bare.stdout {
				t.Errorf("after %q\nbare:\n%s%s\nunder appfw:\n%s%s", mode, bare.stdout, bare.stderr, under.stdout, under.stderr)
			}
		}
	})
}

// A file that others are to find, and will not, is told of once; what is below a
// directory of the host's is found.
func TestUnseen(t *testing.T) {
	both(t, func(w *world) {
		script := `echo 1 >"$XDG_RUNTIME_DIR/server.pid"; echo 2 >"$XDG_RUNTIME_DIR/other.pid"; mkdir "$XDG_RUNTIME_DIR/dir"; echo 3 >/run/lock/mine`
		run := append([]string{"sh", "-c", `"$@" && cat /run/lock/mine`, "sh", program, "run", "--"}, "sh", "-c", script)
		r := w.finish(w.Command(t.Context(), w.Root(), "unshare", w.withRun("", run...)...))
		dir := fmt.Sprintf("/run/user/%d", w.user.UID)
		if w.ok(r) != "3\n" || strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, ".pid is seen by the program alone, as all that it makes at the top of "+dir+"\n") {
			t.Errorf("%s%s", r.stdout, r.stderr)
		}
	})
}
