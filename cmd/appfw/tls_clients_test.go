package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

func init() { probes["https"] = probeHTTPS }

// probeHTTPS gets the URLs args with a client that resumes sessions.
func probeHTTPS(args []string) error {
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)}}}
	for _, url := range args {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	// The URLs are gotten by one handle of the libcurl argv[1].
	libcurl = `
import ctypes, os, sys
curl = ctypes.CDLL(sys.argv[1])
curl.curl_easy_init.restype = ctypes.c_void_p
curl.curl_easy_strerror.restype = ctypes.c_char_p
handle = ctypes.c_void_p(curl.curl_easy_init())
CAINFO, URL, HTTP_VERSION, HTTP_1_1 = 10065, 10002, 84, 2
curl.curl_easy_setopt(handle, CAINFO, os.environ["CURL_CA_BUNDLE"].encode())
curl.curl_easy_setopt(handle, HTTP_VERSION, HTTP_1_1)
for url in sys.argv[2:]:
    curl.curl_easy_setopt(handle, URL, url.encode())
    code = curl.curl_easy_perform(handle)
    if code:
        sys.exit(curl.curl_easy_strerror(code).decode())
`
	// libgit2 lists the branches of repositories, and speaks TLS by Mbed TLS.
	libgit2 = `
import ctypes, os, sys
git = ctypes.CDLL("libgit2.so.1.5")
class Error(ctypes.Structure): _fields_ = [("message", ctypes.c_char_p), ("kind", ctypes.c_int)]
class Head(ctypes.Structure): _fields_ = [("local", ctypes.c_int), ("oids", ctypes.c_ubyte * 40), ("name", ctypes.c_char_p)]
git.git_error_last.restype = ctypes.POINTER(Error)
def check(code):
    if code: sys.exit(git.git_error_last().contents.message.decode())
git.git_libgit2_init()
SET_SSL_CERT_LOCATIONS = 12
check(git.git_libgit2_opts(SET_SSL_CERT_LOCATIONS, os.environ["CURL_CA_BUNDLE"].encode(), None))
for url in sys.argv[1:]:
    remote, heads, n = ctypes.c_void_p(), ctypes.POINTER(ctypes.POINTER(Head))(), ctypes.c_size_t()
    check(git.git_remote_create_detached(ctypes.byref(remote), url.encode()))
    check(git.git_remote_connect(remote, 0, None, None, None))
    check(git.git_remote_ls(ctypes.byref(heads), ctypes.byref(n), remote))
    for i in range(n.value): print(heads[i].contents.name.decode())
`
	pythonSSL = `
import socket, ssl, sys
from urllib.parse import urlsplit
context, session = ssl.create_default_context(), None
for url in map(urlsplit, sys.argv[1:]):
    with context.wrap_socket(socket.create_connection((url.hostname, url.port)), server_hostname=url.hostname, session=session) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % url.netloc.encode())
        while b := s.recv(4096): sys.stdout.buffer.write(b)
        session = s.session
`
	nodeJS = `
const get = ([url, ...more]) => url && require("https").get(url, r => r.on("end", () => get(more)).pipe(process.stdout, {end: false}))
get(process.argv.slice(1))
`
	// $1 is the URL, $2 may be another.
	gnutlsCLI = `
authority=${1#https://} authority=${authority%/*}
printf 'GET / HTTP/1.1\r\nHost: %s\r\n\r\n' $authority | gnutls-cli --x509cafile="$CURL_CA_BUNDLE" ${2+-r} -p ${authority#*:} ${authority%:*}
`
)

// How a client comes to its second connection.
const (
	fresh   = "resumed false"
	resumes = "resumed true"
)

// The ways of a handshake, by the port that insists on each.
var tlsPorts = map[int]*tls.Config{
	1441: {MaxVersion: tls.VersionTLS12},
	1442: {MinVersion: tls.VersionTLS13},
	1443: {MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP521}}, // by a HelloRetryRequest
}

// Every TLS library has its own ClientHello, and its own way to resume a session.
func TestTLSClients(t *testing.T) {
	t.Setenv("GODEBUG", "tlssha1=1") // for Busybox, which does not say that it can do better
	clients := []struct {
		name         string
		command      []string // before the URLs
		tls12, tls13 string   // "": it cannot
	}{
		{"OpenSSL by curl", []string{"curl", "-sS", "--http1.1"}, fresh, resumes},
		{"OpenSSL by Node", []string{"node", "-e", nodeJS, "--"}, resumes, resumes},
		{"OpenSSL by Python", []string{"python3", "-c", pythonSSL}, resumes, resumes},
		{"OpenSSL by Busybox", []string{"busybox", "wget", "-q", "-O-"}, fresh, fresh},
		{"GnuTLS", []string{"sh", "-c", gnutlsCLI, "sh"}, resumes, resumes},
		{"GnuTLS by libcurl", []string{"python3", "-c", libcurl, "libcurl-gnutls.so.4"}, fresh, fresh},
		{"GnuTLS by wget", []string{"sh", "-c", `exec wget -q -O- --ca-certificate="$CURL_CA_BUNDLE" "$@"`, "sh"}, fresh, fresh},
		{"NSS by libcurl", []string{"python3", "-c", libcurl, "libcurl-nss.so.4"}, fresh, resumes},
		{"Go", probing("https"), resumes, resumes},
		{"Mbed TLS by libgit2", []string{"python3", "-c", libgit2}, fresh, ""},
		{"Busybox", []string{"env", "PATH=/nonexistent", "/bin/busybox", "wget", "-q", "-O-"}, fresh, ""},
	}
	both(t, func(w *world) {
		var mu sync.Mutex
		var shown, last string // the names, and the last request
		handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			last = fmt.Sprintf("%s resumed %t", tls.VersionName(r.TLS.Version), r.TLS.DidResume)
			mu.Unlock()
			rw.Header().Set("Connection", "close")
			if r.URL.Path == "/info/refs" { // gitprotocol-http(5)
				rw.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
				fmt.Fprintf(rw, "001e# service=git-upload-pack\n0000003e%040d refs/heads/main\x00\n0000", 1)
			} else {
				fmt.Fprintln(rw, "hello from", r.Host)
			}
		})
		for port, config := range tlsPorts {
			config = config.Clone()
			config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				mu.Lock()
				defer mu.Unlock()
				shown += hello.ServerName + "\n"
				return nil, nil
			}
			w.example.ServeTLS(port, handler, config, "example.com", "shared.example")
		}
		// Both names lead to the server, and to another port of it.
		flags := []string{"--allow", "example.com", "--allow", "shared.example:9", "--", "sh", "-c", `getent ahosts example.com >/dev/null; exec "$@"`, "sh"}
		for port, config := range tlsPorts {
			for _, c := range clients {
				want := "TLS 1.3 " + c.tls13
				if config.MaxVersion == tls.VersionTLS12 {
					want = "TLS 1.2 " + c.tls12
				} else if c.tls13 == "" {
					continue
				}
				run := slices.Concat(flags, c.command)
				denied := fmt.Sprintf("https://shared.example:%d/", port)
				w.denied(w.run(append(run, denied)...), fmt.Sprintf("appfw: denied tcp shared.example:%d: no rule allows it (to allow: --allow shared.example:%[1]d)\n", port))
				allowed := fmt.Sprintf("https://example.com:%d/", port)
				r := w.run(append(run, allowed, allowed)...)
				mu.Lock()
				if r.code != 0 || !strings.Contains(r.stdout, "hello from example.com") && !strings.Contains(r.stdout, "main") || last != want || strings.Contains(shown, "shared") {
					t.Errorf("%s, %d: %+v; last: %s, not %s; names: %s", c.name, port, r, last, want, shown)
				}
				shown, last = "", ""
				mu.Unlock()
			}
		}
	})
}
