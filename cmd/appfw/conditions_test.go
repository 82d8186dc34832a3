package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Where little is allowed, a run works, or says in plain words why it does not, and
// nothing is run.
func TestHardConditions(t *testing.T) {
	w := newWorld(t)
	// A user of its own: processes are counted by user, on the whole machine.
	uid := 1<<20 + os.Getpid()*256%(1<<28)
	const inside = `unshare -m sh -c '%s; exec "$@"' sh %s "$@"`
	user := fmt.Sprintf("setpriv --reuid %d --regid %[1]d --clear-groups", uid)
	chrooted := `for d in usr etc bin lib lib64 tmp dev; do if [ -e /$d ]; then mkdir -p /mnt/$d; mount --rbind /$d /mnt/$d; fi; done; mkdir -p /mnt/proc; mount -t proc proc /mnt/proc`
	for _, tt := range []struct{ name, script, says string }{ // says is empty if it works
		{"few processes", user + ` bash -c 'ulimit -u 20; exec "$@"' bash "$@"`, "processes are the limit here, "},
		{"enough processes", user + ` bash -c 'ulimit -u 60; exec "$@"' bash "$@"`, ""},
		{"little address space", `ulimit -v 900000; "$@"`, "878 MiB of address space are the limit here, and appfw needs 1024 (ulimit -v)"},
		{"more address space", `ulimit -v 3000000; "$@"`, ""},
		{"no descriptors", `ulimit -n 4; "$@"`, "4 open files are the limit here, and appfw needs 64 (ulimit -n)"},
		{"few descriptors", `ulimit -n 30; "$@"`, "30 open files are the limit here"},
		{"enough descriptors", `exec 200</dev/null; ulimit -n 70; "$@"`, ""},
		{"no files", `ulimit -f 0; "$@"`, "ulimit -f raises the limit"},
		{"no /sys", fmt.Sprintf(inside, "umount -l /sys", "env"), ""},
		{"an empty /sys", fmt.Sprintf(inside, "mount -t tmpfs tmpfs /sys", user), ""},
		{"no /proc", fmt.Sprintf(inside, "umount -l /proc", user), "there is no /proc here"},
		{"a /proc/sys to read", fmt.Sprintf(inside, "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys", user), ""},
		{"hidepid", fmt.Sprintf(inside, "mount -t proc -o hidepid=2 proc /proc", user), ""},
		{"a chroot", `unshare -m sh -c 'mount -t tmpfs tmpfs /mnt; ` + chrooted + `; exec chroot /mnt "$@"' sh "$@"`, "as they are in a chroot"},
		{"unshare -r", user + ` unshare -r "$@"`, ""},
		{"unshare -c", user + ` unshare -c "$@"`, ""},
		{"unshare -r, by root", `unshare -r "$@"`, ""},
		{"root of two namespaces", user + ` unshare -r unshare -r "$@"`, ""},
		{"nobody", user + ` unshare -U "$@"`, "uid 65534 means nobody in this user namespace"},
		{"a user that is not", `a=$1; unshare -r "$a" run --user 4711 -- true`, "--user: uid 4711 means nobody in this user namespace"},
		{"no namespaces", `unshare -r sh -c 'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"' sh "$@"`, "too many namespaces"},
		{"no capabilities", `setpriv --bounding-set=-all --inh-caps=-all "$@"`, "root has no CAP_SETFCAP here"},
		{"those of a container", `setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+setgid,+setuid,+setpcap,+net_raw,+setfcap "$@"`, ""},
		{"no CAP_SETGID", `setpriv --bounding-set=-setgid "$@"`, ""},
		{"nested, as root", `"$1" run -- "$@"`, "root has no CAP_SETFCAP here"},
		{"nested, as a user", user + ` "$1" run -- "$@"`, ""},
	} {
		r := w.finish(w.Command(t.Context(), w.user, "bash", "-c", tt.script, "bash", program, "run", "-q", "--", "echo", "ran"))
		switch {
		case strings.Contains(r.stderr, "goroutine") || strings.Contains(r.stderr, "panic"):
			t.Errorf("%s: %.2000s", tt.name, r.stderr)
		case tt.says == "" && (r.code != 0 || r.stdout != "ran\n"):
			t.Errorf("%s: code %d, %s%s", tt.name, r.code, r.stdout, r.stderr)
		case tt.says != "" && (r.code != 125 || r.stdout != "" || !strings.Contains(r.stderr, tt.says)):
			t.Errorf("%s: code %d, %s%s, want %q", tt.name, r.code, r.stdout, r.stderr, tt.says)
		}
	}
}
