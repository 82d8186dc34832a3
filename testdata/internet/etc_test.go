package internet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"appfw/testdata/internet"
)

// standIn says, in the environment, that this process is in a mount namespace of its own, where /etc is a copy
// that it may spoil.
const standIn = "APPFW_TEST_ETC_IS_A_COPY"

// The simulated host's own files, and a server's, outlive the machine's, which useradd, apt and others replace by
// rename(2) at any time. A copy of the machine's stands for them.
func TestEtcRenamed(t *testing.T) {
	if os.Getenv(standIn) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		const script = `cp -a /etc "$1/etc"; : >"$1/etc/copy"
			mount --bind "$1/etc" /etc; exec "$0" -test.run '^TestEtcRenamed$' -test.count 1 -test.v`
		inner := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-ec", script, self, dir)
		inner.Env = append(os.Environ(), standIn+"=yes")
		if output, err := inner.CombinedOutput(); err != nil || !strings.Contains(string(output), "--- PASS: TestEtcRenamed ") {
			t.Errorf("%v\n%s", err, output)
		}
		return
	}
	if _, err := os.Stat("/etc/copy"); err != nil {
		t.Fatal("this would be the machine's own /etc: ", err)
	}
	n := internet.New(t)
	told, told2 := filepath.Join(n.Dir(), "told"), filepath.Join(n.Dir(), "told again")
	server := n.ServerWithFiles(map[string]string{"/etc/shadow": "server's\n", "/etc/resolv.conf": "server's too\n"}, "sh", "-ec",
		`cat /etc/shadow /etc/resolv.conf /etc/copy >"$0"; mkfifo "$0.go"; read -r line <"$0.go"; cat /etc/shadow /etc/resolv.conf >"$1"`, told, told2)
	host := func() string {
		return succeed(t, n, n.Ordinary(), "sh", "-c", "id -un; id -gn; cat /etc/resolv.conf /etc/hosts /etc/nsswitch.conf")
	}
	before := host()
	if !strings.HasPrefix(before, "ordinary\nordinary\nnameserver 11.22.0.53\n") {
		t.Fatalf("the host's own files: %s", before)
	}
	for _, name := range []string{"passwd", "group", "shadow", "resolv.conf", "hosts", "nsswitch.conf"} {
		if err := os.WriteFile("/etc/"+name+".new", []byte("machine's\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename("/etc/"+name+".new", "/etc/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if after := host(); after != before {
		t.Errorf("the host's own files are\n%s\nand were\n%s", after, before)
	}
	n.SetFile("/etc/hosts", "11.22.1.1 changed\n")
	if out := succeed(t, n, n.Ordinary(), "getent", "hosts", "changed"); !strings.HasPrefix(out, "11.22.1.1 ") {
		t.Errorf("a file changed after that: %q", out)
	}
	if b, err := os.ReadFile("/etc/hosts"); string(b) != "machine's\n" {
		t.Errorf("the machine's own is %q, %v", b, err)
	}
	succeed(t, n, n.Root(), "sh", "-c", `until [ -p "$0.go" ]; do sleep 0.01; done; echo >"$0.go"`, told)
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
	for _, file := range []string{told, told2} {
		if b, err := os.ReadFile(file); string(b) != "server's\nserver's too\n" {
			t.Errorf("the server found %q, %v", b, err)
		}
	}
}
