package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// squid starts a squid that is as Debian has it: it makes tunnels to port 443 alone. It
// returns the URL, and the lines of its log.
func (p *proxies) squid() (url string, log func() string) {
	p.t.Helper()
	dir, err := os.MkdirTemp("", "appfw-squid-") // not t.TempDir, which is root's alone
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		p.t.Fatal(err)
	}
	password := filepath.Join(dir, "users")
	if err := os.WriteFile(password, []byte("me:$apr1$oaCCWDdt$01XJirW.hqPbIVOwKnLbO.\n"), 0o644); err != nil { // openssl passwd -apr1 geheim
		p.t.Fatal(err)
	}
	p.serve("squid", "-N", "-n", fmt.Sprintf("appfw%d", os.Getpid()), "-f", p.write("squid.conf", fmt.Sprintf(`
		http_port 11.22.0.60:3128
		auth_param basic program /usr/lib/squid/basic_ncsa_auth %[2]s
		acl users proxy_auth REQUIRED
		acl SSL_ports port 443
		acl Safe_ports port 80 443 1025-65535
		http_access deny !Safe_ports
		http_access deny CONNECT !SSL_ports
		http_access allow users
		http_access deny all
		cache deny all
		pinger_enable off
		cache_effective_user proxy
		visible_hostname proxy.example
		dns_nameservers 11.22.0.61
		pid_filename none
		cache_log /dev/null
		access_log stdio:%[1]s/access.log
		logfile_rotate 0
		netdb_filename none
		shutdown_lifetime 0 seconds
	`, dir, password)))
	p.AwaitTCP(3128)
	return "http://me:geheim@11.22.0.60:3128", func() string { return string(mustRead(p.t, filepath.Join(dir, "access.log"))) }
}

// What is for http: URLs is asked of an HTTP proxy as such, on every way in: many make
// no tunnel to port 80.
func TestUpstreamPlain(t *testing.T) {
	w := newWorld(t)
	p := w.proxied()
	squid, log := p.squid()
	p.serve("tinyproxy", "-d", "-c", p.write("plain.conf", "User root\nListen 11.22.0.60\nPort 8888\nTimeout 60\nBasicAuth me geheim\nConnectPort 443\n"))
	p.AwaitTCP(8888)
	for about, url := range map[string]string{"squid": squid, "tinyproxy": "http://me:geheim@11.22.0.60:8888"} {
		for way, curl := range map[string]string{
			"transparent": "curl -sS", "forward": "curl -sS -x http://192.0.0.1:1080", "SOCKS": "curl -sS -x socks5h://192.0.0.1:1080",
			"CONNECT": "curl -sS -p -x http://192.0.0.1:1080",
		} {
			t.Run(about+", "+way, func(t *testing.T) {
				r := w.run("--upstream", url, "--allow", "example.com", "--allow", "11.22.0.10", "--", "sh", "-c", curl+" -w '%{num_connects}\\n' http://example.com/a%2Fb http://example.com/2; "+
					curl+" http://11.22.0.10; "+curl+" -d x=y http://example.com; "+curl+" https://example.com")
				out := w.ok(r)
				if n := strings.Count(out, "hello from example.com"); n != 4 || strings.Count(out, "hello from 11.22.0.10") != 1 || r.stderr != "" {
					t.Errorf("%s%s", out, r.stderr)
				}
				p.indirect()
			})
		}
		w.denied(w.run("--upstream", strings.Replace(url, "geheim", "falsch", 1), "--allow", "example.com", "--", "curl", "-sS", "http://example.com"),
			"denied tcp example.com:80: the upstream failed: http://"+url[len("http://me:geheim@"):]+": it does not take the user and password")
		w.denied(w.run("--upstream", url, "--allow", "11.22.0.10", "--", "curl", "-sS", "-H", "Host: other.example", "http://11.22.0.10"), "denied tcp 11.22.0.10:80: the upstream refuses it: ")
	}
	if got := log(); strings.Contains(got, "CONNECT example.com:80") || !strings.Contains(got, "GET http://example.com/a%2Fb") || !strings.Contains(got, "CONNECT example.com:443") {
		t.Error(got)
	}
}
