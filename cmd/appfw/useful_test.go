package main

import "testing"

// A socket of the host's that the program may need and that is hidden is told of once it
// asks, with what shows it; and then it is shown.
func TestUsefulSockets(t *testing.T) {
	both(t, func(w *world) {
		path := w.user.Home + "/.cache/git/credential/socket"
		server := w.unixHost()
		server.does("mkdir "+w.user.Home+"/.cache", "mkdir "+w.user.Home+"/.cache/git", "mkdir "+w.user.Home+"/.cache/git/credential", "listen "+path)
		connect := []string{"--", "python3", "-c", `import socket, sys
s = socket.socket(socket.AF_UNIX)
for _ in range(2): print(s.connect_ex(sys.argv[1]))`, path}
		hint := "(to show it: --allow-unix " + path + ")"
		r := w.run(connect...)
		wants(t, r.stderr, "appfw: the program asked for the host's "+path+", which is hidden "+hint)
		if before := server.ask("arrived"); r.stdout != "111\n111\n" || before != "0" {
			t.Errorf("%s arrived: %+v", before, r)
		}
		r = w.run(append([]string{"--allow-unix", path}, connect...)...)
		if r.stdout != "0\n106\n" || r.stderr != "" {
			t.Errorf("as hinted: %+v", r)
		}
	})
}
