package signals

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// role tells this executable what it is in a test.
const role = "APPFW_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "die":
		var sig int
		_, _ = fmt.Sscan(os.Args[1], &sig)
		Die(unix.Signal(sig))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// after runs a program after a shell has done something.
func after(shell, program string, args ...string) *exec.Cmd {
	return exec.Command("/bin/sh", append([]string{"-c", shell + ` exec "$0" "$@"`, program}, args...)...)
}

// What the caller has ignored is known, whatever Go's runtime did, and passed on. Who runs
// the test has some ignored perhaps: make(1) has those of the C library's own.
func TestIgnored(t *testing.T) {
	program := filepath.Join(t.TempDir(), "ignored") // as "go test" has no symbols
	if out, err := exec.Command("go", "build", "-o", program, "./testdata/ignored").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var inherited Set
	status, err := exec.Command("/bin/sed", "-n", `s/^SigIgn:\t//p`, "/proc/self/status").Output()
	if err == nil {
		_, err = fmt.Sscanf(string(status), "%x", (*uint64)(&inherited))
	}
	if err != nil {
		t.Fatal(err)
	}
	for trap, want := range map[string]Set{
		"":                             0,
		"trap '' TERM;":                Set(0).With(unix.SIGTERM),
		"trap '' PIPE QUIT HUP;":       Set(0).With(unix.SIGPIPE).With(unix.SIGQUIT).With(unix.SIGHUP),
		"trap '' TSTP USR1 ALRM XFSZ;": Set(0).With(unix.SIGTSTP).With(unix.SIGUSR1).With(unix.SIGALRM).With(unix.SIGXFSZ),
		"trap '' URG;":                 Set(0).With(unix.SIGURG),
	} {
		out, err := after(trap, program).Output()
		if err != nil {
			t.Fatalf("%q: %v", trap, err)
		}
		want |= inherited
		if text := fmt.Sprintf("%x\nSigIgn:\t%016x\n", uint64(want), uint64(want)); string(out) != text {
			t.Errorf("%q: %q, want %q", trap, out, text)
		}
	}
}

// One ends by any signal that ends processes, without a core, also where the caller
// ignores it or has it blocked.
func TestDie(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for sig := unix.Signal(1); sig <= Last; sig++ {
		if slices.Contains([]unix.Signal{unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}, sig) {
			continue // it would stop
		}
		ends := !slices.Contains([]unix.Signal{unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH}, sig)
		c := after("ulimit -c unlimited; trap '' TERM;", self, fmt.Sprint(int(sig)))
		c.Env = append(os.Environ(), role+"=die")
		c.Dir = t.TempDir()
		_ = c.Run()
		status := c.ProcessState.Sys().(syscall.WaitStatus)
		if ends && (!status.Signaled() || status.Signal() != sig || status.CoreDump()) || !ends && status.ExitStatus() != 3 {
			t.Errorf("signal %d: %v", sig, c.ProcessState)
		}
		if left, _ := os.ReadDir(c.Dir); len(left) > 0 {
			t.Errorf("signal %d: it left %v", sig, left)
		}
	}
}

// Without symbols, nothing is invented.
func TestNoSymbol(t *testing.T) {
	if at, size := symbol("runtime.noSuchVariable"); at != 0 || size != 0 {
		t.Errorf("%#x, %d", at, size)
	}
	if readVariable("runtime.fwdSig", make([]byte, 8)) {
		t.Error("a variable of another size was read")
	}
}
