package main

import (
	"os"
	"strings"

	"appfw/testdata/internet"
)

// proxies are real proxies on a host of the internet, with a resolver that nobody
// else asks.
type proxies struct {
	*world
	host *internet.Host // proxy.example
	zone *internet.Zone // what the resolver knows
}

// proxiesResolv is the resolv.conf of the proxies.
const proxiesResolv = "nameserver 11.22.0.61\n"

// Where the proxies listen, when they are started.
const (
	viaSocks   = "socks5h://11.22.0.60:1080"            // microsocks
	viaDante   = "socks5h://me:geheim@11.22.0.60:1081"  // with UDP
	viaHTTP    = "http://me:geheim@11.22.0.60:8080"     // tinyproxy
	viaHTTPS   = "https://me:geheim@proxy.example:8443" // ncat
	viaSocksV6 = "socks5://[2a0d:aaaa::60]:1082"        // microsocks
)

// proxied starts proxies.
func (w *world) proxied(upstreams ...string) *proxies {
	w.t.Helper()
	p := &proxies{world: w, zone: w.NewZone(), host: w.Host("11.22.0.60", "2a0d:aaaa::60").Name("proxy.example")}
	w.Host("11.22.0.61").ServeDNS(p.zone)
	p.zone.Set("example.com. 300 A 11.22.0.10", "shared.example. 300 A 11.22.0.10", "other.example. 300 A 11.22.0.20",
		"git.example. 300 A 11.22.0.42", "abcdefghij.onion. 300 A 11.22.0.10", "proxy.example. 300 A 11.22.0.60")
	for _, u := range upstreams {
		p.start(u)
	}
	return p
}

// start starts the proxy that an upstream names.
func (p *proxies) start(upstream string) (proxy *internet.Cmd) {
	p.t.Helper()
	var port int
	switch upstream {
	case viaSocks:
		port, proxy = 1080, p.serve("microsocks", "-i", "11.22.0.60", "-p", "1080")
	case viaSocksV6:
		port, proxy = 1082, p.serve("microsocks", "-i", "2a0d:aaaa::60", "-p", "1082")
	case viaDante:
		port, proxy = 1081, p.serve("danted", "-f", p.write("danted.conf", `
			logoutput: stderr
			internal: 11.22.0.60 port = 1081
			external: 11.22.0.60
			socksmethod: username
			clientmethod: none
			user.privileged: root
			user.unprivileged: nobody
			client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
			socks block { from: 0.0.0.0/0 to: 11.22.0.20/32 }
			socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
		`))
	case viaHTTP:
		port, proxy = 8080, p.serve("tinyproxy", "-d", "-c", p.write("tinyproxy.conf", "User root\nListen 11.22.0.60\nPort 8080\nTimeout 60\nBasicAuth me geheim\n"))
	case viaHTTPS:
		cert, key, _ := p.Certificate("proxy.example")
		port, proxy = 8443, p.serve("ncat", "-lk", "11.22.0.60", "8443", "--proxy-type", "http", "--proxy-auth", "me:geheim", "--ssl", "--ssl-cert", cert, "--ssl-key", key)
	}
	p.AwaitTCP(port)
	return proxy
}

// serve starts a server that knows the proxies' resolver and the user me.
func (p *proxies) serve(command ...string) *internet.Cmd {
	p.t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		p.t.Fatal(err)
	}
	return p.ServerWithFiles(map[string]string{
		"/etc/resolv.conf": proxiesResolv,
		"/etc/passwd":      string(passwd) + "me:x:20002:20002::/:/bin/false\n",
		// openssl passwd -6 geheim
		"/etc/shadow": "root:*:20000::::::\nme:$6$JMleji4AS/euAD8A$zvmfiaGMwi/7./7vJcacGWv0HiygyDJGC3Y747oEjNY3xfEBnMVdN3Yh482UKc26/O1/dZk1gkrpGpPso14E70:20000::::::\n",
	}, command[0], command[1:]...)
}

// indirect fails the test if something went beside the proxies: a packet to a
// server, or a question to the host's resolver.
func (p *proxies) indirect() {
	p.t.Helper()
	p.untouched(p.example)
	p.untouched(p.other)
	for _, q := range p.Zone().Queries() {
		if !strings.HasPrefix(q, "proxy.example.") && !strings.HasPrefix(q, "git.example.") {
			p.t.Errorf("the host's resolver was asked %s", q)
		}
	}
}
