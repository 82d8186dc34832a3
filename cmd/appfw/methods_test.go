package main

import "testing"

// Clients that would ask for a password, or have none, are asked for none where it is of
// no use; and as a client, appfw makes one up for Tor alone.
func TestSOCKSMethods(t *testing.T) {
	w := newWorld(t)
	conf := w.write("tsocks.conf", "server = 127.0.0.1\nserver_port = 1080\nserver_type = 5\nlocal = 127.0.0.0/255.0.0.0\n")
	const get = `printf 'GET / HTTP/1.0\r\n\r\n' | `
	clients := map[string]string{
		"tsocks":        "TSOCKS_CONF_FILE=" + conf + " tsocks curl -sS http://11.22.0.10",
		"connect-proxy": get + "SSH_ASKPASS=/bin/false connect-proxy -5 -S 127.0.0.1:1080 11.22.0.10 80",
	}
	s := w.serve("--listen", "127.0.0.1:1080", "--allow", "11.22.0.10")
	for name, command := range clients {
		if got := w.ok(w.finish(w.Command(t.Context(), w.user, "setsid", "timeout", "20", "sh", "-c", command))); len(got) == 0 {
			t.Errorf("%s: nothing", name)
		}
	}
	s.stop()

	p := w.proxied()
	p.serve("danted", "-f", p.write("danted.conf", `
		logoutput: stderr
		internal: 11.22.0.60 port = 1083
		external: 11.22.0.60
		socksmethod: username none
		clientmethod: none
		user.privileged: root
		user.unprivileged: nobody
		client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
		socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
	`))
	p.AwaitTCP(1083)
	for _, upstream := range []string{"socks5h://11.22.0.60:1083", "socks5h://me:geheim@11.22.0.60:1083", "socks5h://11.22.0.60:9 | socks5h://11.22.0.60:1083"} {
		wants(t, w.ok(w.run("--upstream", upstream, "--allow", "example.com", "--", "curl", "-sS", "https://example.com")), "hello from example.com")
	}
	w.denied(w.run("--upstream", "tor://11.22.0.60:1083", "--allow", "example.com", "--", "curl", "-sS", "https://example.com"), "wants a user and a password")
	// SOCKS4a is what ssh -D speaks, too.
	s = w.serve("--listen", "127.0.0.1:1084", "--allow", "example.com")
	wants(t, w.ok(w.run("--upstream", "socks4a://127.0.0.1:1084", "--allow", "example.com", "--", "curl", "-sS", "https://example.com")), "hello from example.com")
	s.stop()
}
