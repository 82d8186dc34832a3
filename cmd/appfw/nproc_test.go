package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A program that has all the processes that its user may have takes no thread from appfw,
// which is busy meanwhile.
func TestNoProcessesLeft(t *testing.T) {
	const bomb = `import ctypes, os, socket, time
def one(i):
    for to in ("example.com", 80), ("11.22.0.20", 80), ("nothere%d.example.com" % i, 80), ("other.example", 80):
        try: socket.create_connection(to, 3).close()
        except OSError: pass
bomb = os.fork()
if bomb == 0:
    while True:
        try:
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: they end with the first
                while True: time.sleep(1000)
        except OSError: time.sleep(0.001)
end, i = time.time() + 2, 0
while time.time() < end:
    one(i); i += 1
try:
    if os.fork() == 0: os._exit(0)
    print("there is room")
except OSError: print("full")
os.kill(bomb, 9)
s = socket.create_connection(("example.com", 80), 5)
s.sendall(b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n")
print(s.makefile().read().splitlines()[-1])`
	w := newWorld(t)
	for _, limit := range []int{50, 64, 200} {
		// A user of its own: processes are counted by user, on the whole machine.
		w.user = w.Ordinary()
		w.user.UID = uint32(1<<20 + os.Getpid()*256%(1<<28) + limit)
		if err := os.Chown(w.user.Home, int(w.user.UID), -1); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf(`ulimit -u %d; exec "$0" run --log log%[1]d.json --allow example.com -- python3 -c "$1"`, limit)
		r := w.finish(w.Command(t.Context(), w.user, "bash", "-c", script, program, bomb))
		if r.code != 0 || r.stdout != "full\nhello from example.com\n" || strings.Contains(r.stderr, "thread") {
			t.Errorf("ulimit -u %d: code %d, %q, %.2000s", limit, r.code, r.stdout, r.stderr)
		}
	}
}
