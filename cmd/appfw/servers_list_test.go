package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"appfw/proxy/conntest"
)

const serverFiles = "testdata/servers"

func clientHello(t testing.TB, name string) []byte {
	return conntest.ClientHello(t, &tls.Config{ServerName: name, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}})
}

// httpServers are those of Debian that differ most in what they take for a request. Each says for which host it was
// asked, or has another page for shared.example.
func httpServers(w *world) (kinds []*serverKind) {
	add := func(name string, start func(w *world, port int)) {
		kinds = append(kinds, &serverKind{name, servesPage, start})
	}
	// simple is a program that takes the port as {}.
	simple := func(name string, command ...string) {
		add(name, func(w *world, port int) {
			var args []string
			for _, a := range command {
				args = append(args, strings.ReplaceAll(a, "{}", strconv.Itoa(port)))
			}
			w.Server(args[0], args[1:]...)
		})
	}
	files := absolute(w.t, serverFiles)
	for _, name := range []string{"http_server", "twisted", "tornado", "waitress", "cheroot", "gunicorn", "uvicorn", "hypercorn", "daphne", "aiohttp", "werkzeug"} {
		simple(name, "/usr/bin/python3", "-B", files+"/servers.py", name, "{}")
	}
	simple("WEBrick", "/usr/bin/ruby", files+"/web.rb", "{}")
	simple("puma", "/usr/bin/ruby", "/usr/bin/puma", "-q", "-b", "tcp://0.0.0.0:{}", files+"/config.ru")
	simple("starman", "/usr/bin/perl", "/usr/bin/starman", "--listen", "0.0.0.0:{}", "--workers", "8", files+"/app.psgi")
	simple("HTTP::Daemon", "/usr/bin/perl", files+"/daemon.pl", "{}")
	simple("Node.js", "node", files+"/web.js", "{}")
	simple("PHP", "php", "-n", "-S", "0.0.0.0:{}", files+"/web.php")
	simple("libmicrohttpd", compiled(w, "microhttpd", "-lmicrohttpd"), "{}")
	simple("libevent", compiled(w, "event", "-levent"), "{}")
	add("varnish", func(w *world, port int) {
		vcl := w.config("varnish.vcl", `vcl 4.1; backend default none; sub vcl_recv { return (synth(200)); } sub vcl_synth { set resp.body = "served another host";
			if (req.http.host ~ "(?i)shared\.example") { set resp.body = "served shared.example"; } return (deliver); }`)
		w.Server("varnishd", "-F", "-a", fmt.Sprint("0.0.0.0:", port), "-f", vcl, "-n", w.Dir()+"/varnish", "-s", "malloc,16m")
	})
	add("HAProxy", func(w *world, port int) {
		config := w.config("haproxy.cfg", fmt.Sprintf("defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind 0.0.0.0:%d\n"+
			" acl denied hdr_dom(host) -i shared.example\n http-request return status 200 content-type text/plain string \"served shared.example\" if denied\n"+
			" http-request return status 200 content-type text/plain string \"served another host\"\n", port))
		w.Server("haproxy", "-db", "-f", config)
	})
	add("nginx", func(w *world, port int) {
		config := w.config("vhosts.conf", fmt.Sprintf(`daemon off; pid %[2]s/vhosts.pid; error_log /dev/null; events {} http { access_log off;
			server { listen 0.0.0.0:%[1]d default_server; location / { return 200 "served another host"; } }
			server { listen 0.0.0.0:%[1]d; server_name shared.example; location / { return 200 "served shared.example"; } } }`, port, w.Dir()))
		w.Server("nginx", "-c", config)
	})
	pages := hostPages(w)
	add("lighttpd", func(w *world, port int) {
		config := w.config("lighttpd.conf", fmt.Sprintf("server.port = %d\nserver.bind = \"0.0.0.0\"\nindex-file.names = (\"index.html\")\nserver.document-root = \"%[2]s/example.com\"\n"+
			"$HTTP[\"host\"] =~ \"shared\\.example\" { server.document-root = \"%[2]s/shared.example\" }\n", port, pages))
		w.Server("lighttpd", "-D", "-f", config)
	})
	simple("webfs", "webfsd", "-F", "-p", "{}", "-r", pages, "-v", "-f", "index.html")
	simple("mini_httpd", "mini_httpd", "-D", "-p", "{}", "-d", pages, "-v", "-u", "root", "-i", w.Dir()+"/mini_httpd.pid")
	add("merecat", func(w *world, port int) {
		config := w.config("merecat.conf", fmt.Sprintf("port = %d\nvirtual-host = true\n", port))
		w.Server("merecat", "-n", "-f", config, "-P", w.Dir()+"/merecat.pid", pages)
	})
	return append(kinds, javaServers(w)...)
}

// javaServers are servers of HTTP that live in one process.
func javaServers(w *world) []*serverKind {
	ports := []string{}
	var kinds []*serverKind
	names := []string{"JDK", "Jetty", "Tomcat"}
	for i, name := range names {
		kinds = append(kinds, &serverKind{name, servesPage, func(w *world, port int) {
			if ports = append(ports, strconv.Itoa(port)); i == len(names)-1 {
				startJava(w, append(ports, "0")...)
			}
		}})
	}
	return kinds
}

// startJava starts the servers of Servers.java.
func startJava(w *world, ports ...string) {
	var jars []string
	for _, jar := range []string{"jetty9-server", "jetty9-util", "jetty9-io", "jetty9-http", "servlet-api", "tomcat10-embed-core", "jakarta-annotation-api"} {
		jars = append(jars, "/usr/share/java/"+jar+".jar")
	}
	store := w.Dir() + "/keys.p12"
	cert, key, _ := w.Certificate("example.com", "shared.example")
	w.must("openssl", "pkcs12", "-export", "-in", cert, "-inkey", key, "-out", store, "-passout", "pass:secret")
	classes := w.Dir() + "/classes"
	w.must("javac", "-nowarn", "-cp", strings.Join(jars, ":"), "-d", classes, serverFiles+"/Servers.java")
	w.Server("java", append([]string{"-Djava.io.tmpdir=" + w.Dir(), "-cp", strings.Join(append(jars, classes), ":"), "Servers"}, append(ports, store)...)...)
}

// tlsServers are the stacks of TLS.
func tlsServers(w *world) (kinds []*serverKind) {
	cert, key, _ := w.Certificate("example.com", "shared.example")
	add := func(name string, start func(w *world, port int)) {
		kinds = append(kinds, &serverKind{name, shakesHands, start})
	}
	add("JSSE", func(w *world, port int) { startJava(w, "0", "0", "0", strconv.Itoa(port)) })
	add("OpenSSL", func(w *world, port int) {
		w.Server("openssl", "s_server", "-4", "-quiet", "-accept", strconv.Itoa(port), "-cert", cert, "-key", key)
	})
	add("GnuTLS", func(w *world, port int) {
		w.Server("gnutls-serv", "--quiet", "--port", strconv.Itoa(port), "--x509certfile", cert, "--x509keyfile", key)
	})
	add("mbedTLS", func(w *world, port int) {
		w.Server(compiled(w, "mbedtls", "-lmbedtls", "-lmbedx509", "-lmbedcrypto", "-lpthread"), strconv.Itoa(port), cert, key)
	})
	add("NSS", func(w *world, port int) {
		db, store := w.Dir()+"/nss", w.Dir()+"/nss.p12"
		w.must("mkdir", db)
		w.must("openssl", "pkcs12", "-export", "-in", cert, "-inkey", key, "-name", "site", "-out", store, "-passout", "pass:secret")
		w.must("certutil", "-N", "-d", db, "--empty-password")
		w.must("pk12util", "-i", store, "-d", db, "-W", "secret")
		w.Server("selfserv", "-p", strconv.Itoa(port), "-d", db, "-n", "site", "-V", "tls1.2:tls1.3")
	})
	add("Go", func(w *world, port int) {
		w.example.ServeHTTPS(port, nil, "example.com", "shared.example")
	})
	return kinds
}

// hostPages is a directory with one for each host.
func hostPages(w *world) string {
	dir := w.Dir() + "/pages"
	for host, page := range map[string]string{"shared.example": "served shared.example", "example.com": "served another host", "11.22.0.10": "served another host"} {
		if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, host, "index.html"), []byte(page), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// compiled is a program of C.
func compiled(w *world, name string, libraries ...string) string {
	out := w.Dir() + "/" + name
	w.must("gcc", append([]string{"-o", out, serverFiles + "/" + name + ".c"}, libraries...)...)
	return out
}

// must runs a command of the machine's.
func (w *world) must(name string, args ...string) {
	w.t.Helper()
	if out, err := exec.CommandContext(w.t.Context(), name, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// config makes a file that everybody can read.
func (w *world) config(name, text string) string {
	file := filepath.Join(w.Dir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return file
}

func absolute(t testing.TB, path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
