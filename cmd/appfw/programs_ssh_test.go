package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"appfw/testdata/internet"
)

// sshd starts an SSH server as git.example, which lets the user in as root by a
// key. It returns the client's command up to its further arguments.
func (w *world) sshd() (h *internet.Host, ssh string) {
	w.t.Helper()
	h = w.Host("11.22.0.42", "2a0d:aaaa::42").Name("git.example")
	key := filepath.Join(w.user.Home, "id")
	if r := w.finish(w.Command(w.t.Context(), w.user, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)); r.code != 0 {
		w.t.Fatal(r.stderr)
	}
	hostKey := filepath.Join(w.Dir(), "host_key")
	w.make("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey)
	public, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		w.t.Fatal(err)
	}
	known := w.write("known_hosts", "git.example "+string(public))
	conf := w.write("sshd_config", fmt.Sprintf(`
		ListenAddress 11.22.0.42
		ListenAddress 2a0d:aaaa::42
		HostKey %s
		AuthorizedKeysFile %s.pub
		PidFile none
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		StrictModes no
		UsePAM no
		PrintMotd no
		PrintLastLog no
	`, hostKey, key))
	// sshd wants /run/sshd, which only Debian's service makes, and a root whose
	// password is not locked.
	files := map[string]string{"/etc/shadow": "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n"}
	if w.resolv != "" {
		files["/etc/resolv.conf"] = w.resolv
	}
	w.ServerWithFiles(files, "sh", "-ec", `mount -t tmpfs tmpfs /run; mkdir /run/sshd
		exec /usr/sbin/sshd -D -e -f "$0"`, conf)
	w.AwaitTCP(22)
	return h, fmt.Sprintf("ssh -l root -i %s -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=%s", key, known)
}

func TestSSH(t *testing.T) {
	var lines []byte // 15 MB
	for i := range int64(2_000_000) {
		lines = append(strconv.AppendInt(lines, i+1, 10), '\n')
	}
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256(lines))
	both(t, func(w *world) {
		h, ssh := w.sshd()
		shell := func(script string) []string {
			return []string{"bash", "-o", "pipefail", "-c", strings.ReplaceAll(script, "ssh ", ssh+" ")}
		}
		w.refused(h, "git.example", 22, shell("ssh git.example true")...)

		allow := []string{"--allow", "git.example:22/tcp", "--"}
		run := func(script string) result {
			t.Helper()
			r := w.run(append(allow, shell(script)...)...)
			if w.ok(r); r.stderr != "" {
				t.Errorf("%s: %s", script, r.stderr)
			}
			return r
		}
		// The client says nothing here: the server is first, and not held up.
		if r := run("read -r banner < /dev/tcp/git.example/22; echo $banner"); !strings.HasPrefix(r.stdout, "SSH-2.0-") || r.took > failFast {
			t.Errorf("the banner %q after %v", r.stdout, r.took)
		}
		for _, family := range []string{"-4", "-6"} {
			if r := run("ssh " + family + " git.example 'echo $SSH_CONNECTION'"); !strings.HasSuffix(r.stdout, " 22\n") || r.took > 2*failFast {
				t.Errorf("%q after %v", r.stdout, r.took)
			}
		}
		if r := w.run(append(allow, shell("ssh git.example 'exit 7'")...)...); r.code != 7 {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
		if out := run("ssh git.example seq 2000000 | sha256sum").stdout; out != sum {
			t.Errorf("output: %q", out)
		}
		if out := run("seq 2000000 | ssh git.example sha256sum").stdout; out != sum {
			t.Errorf("input: %q", out)
		}
	})
}

// A stricter ssh than Debian 12's default: the system's configuration includes
// files that must be root's, as with systemd 256's 20-systemd-ssh-proxy.conf.
func TestSSHSystemConfiguration(t *testing.T) {
	both(t, func(w *world) {
		_, ssh := w.sshd()
		w.write("ssh_config.d/20-systemd-ssh-proxy.conf", "Host unix/* vsock/*\n\tProxyCommand /bin/false\n")
		r := w.finish(w.Command(t.Context(), w.Root(), "mount", "--bind", filepath.Join(w.Dir(), "ssh_config.d"), "/etc/ssh/ssh_config.d"))
		w.ok(r)
		w.ok(w.finish(w.Command(t.Context(), w.user, "sh", "-c", ssh+" git.example true")))
		w.ok(w.run("--allow", "git.example", "--", "sh", "-c", ssh+" git.example true"))
	})
}

func TestGit(t *testing.T) {
	both(t, func(w *world) {
		page := text(30_000)
		w.write("work/file", page)
		bare := filepath.Join(w.Dir(), "www/repo.git")
		w.make("sh", "-ec", `cd "$0/work"; export HOME="$0"
			git init -q -b main; git add file
			git -c user.name=a -c user.email=a@example.com commit -q -m first
			mkdir -p "$0/www"; git clone -q --bare . "$1"; git -C "$1" update-server-info`, w.Dir(), bare)
		web := w.nginx()
		server, ssh := w.sshd()
		for _, c := range []struct {
			host *internet.Host
			name string
			port int
			url  string
		}{
			{web, "web.example", 443, "https://web.example/repo.git"},
			{server, "git.example", 22, "ssh://git.example" + bare},
		} {
			into := filepath.Join(w.user.Home, c.name)
			clone := []string{"env", "GIT_SSH_COMMAND=" + ssh, "git", "clone", "-q", c.url, into}
			w.refused(c.host, c.name, c.port, clone...)
			w.ok(w.run(append([]string{"--allow", fmt.Sprintf("%s:%d", c.name, c.port), "--"}, clone...)...))
			if got, err := os.ReadFile(filepath.Join(into, "file")); string(got) != page {
				t.Errorf("%s: %d bytes, not %d, %v", c.url, len(got), len(page), err)
			}
		}
		// And back.
		script := `cd "$HOME/git.example"; echo more > more; git add more; git -c user.name=a -c user.email=a@example.com commit -q -m second; git push -q`
		w.ok(w.run("--allow", "git.example", "--", "env", "GIT_SSH_COMMAND="+ssh, "sh", "-ec", script))
		w.make("sh", "-ec", `test "$(git -C "$0" log -1 --format=%s)" = second`, bare)
	})
}
