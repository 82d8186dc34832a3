package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"appfw/testdata/internet"
)

// git and ssh, which keep their connections for longer.
func TestExplicitGit(t *testing.T) {
	both(t, func(w *world) {
		page := text(3000)
		w.write("work/file", page)
		bare := filepath.Join(w.Dir(), "www/repo.git")
		w.make("sh", "-ec", `cd "$0/work"; export HOME="$0"
			git init -q -b main; git add file
			git -c user.name=a -c user.email=a@example.com commit -q -m first
			mkdir -p "$0/www"; git clone -q --bare . "$1"; git -C "$1" update-server-info`, w.Dir(), bare)
		web := w.nginx()
		server, ssh := w.sshd()
		type client struct {
			host    *internet.Host
			name    string
			port    int
			command []string
		}
		var clients []client
		for _, proxy := range []string{"socks5h://192.0.0.1:1080", "http://192.0.0.1:1080", "http://[fd61:7070:6677::1]:1080"} {
			for port, url := range map[int]string{80: "http://web.example/repo.git", 443: "https://web.example/repo.git"} {
				clients = append(clients, client{web, "web.example", port, []string{"git", "-c", "http.proxy=" + proxy, "clone", "-q", url}})
			}
		}
		for _, kind := range []string{"socks4", "socks5", "http"} {
			by := ssh + " -o 'ProxyCommand ncat --proxy 192.0.0.1:1080 --proxy-type " + kind + " %h %p'"
			clients = append(clients, client{server, "git.example", 22, []string{"env", "GIT_SSH_COMMAND=" + by, "git", "clone", "-q", "ssh://git.example" + bare}})
		}
		for i, c := range clients {
			into := filepath.Join(w.user.Home, fmt.Sprint(i))
			for _, allow := range []string{"example.com", c.name + ":9"} {
				w.denied(w.run(append([]string{"--allow", allow, "--"}, append(c.command, into)...)...),
					fmt.Sprintf("appfw: denied tcp %s:%d: no rule allows it (to allow: --allow %[1]s:%[2]d)\n", c.name, c.port))
			}
		}
		w.untouched(web)
		w.untouched(server)
		for i, c := range clients {
			into := filepath.Join(w.user.Home, fmt.Sprint(i))
			w.ok(w.run(append([]string{"--allow", fmt.Sprintf("%s:%d", c.name, c.port), "--"}, append(c.command, into)...)...))
			if got, err := os.ReadFile(filepath.Join(into, "file")); string(got) != page {
				t.Errorf("%q: %d bytes, not %d, %v", c.command, len(got), len(page), err)
			}
		}
	})
}

// npm fetches a package and its tarball by the explicit proxy, in a run and alone.
func TestExplicitNpm(t *testing.T) {
	both(t, func(w *world) {
		var archive bytes.Buffer
		zipped := gzip.NewWriter(&archive)
		files := tar.NewWriter(zipped)
		const manifest = `{"name":"hello","version":"1.0.0"}`
		if err := errors.Join(
			files.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(manifest))}),
			second(files.Write([]byte(manifest))), files.Close(), zipped.Close(),
		); err != nil {
			w.t.Fatal(err)
		}
		sum := sha512.Sum512(archive.Bytes())
		registry := w.Host("11.22.0.33").Name("registry.example")
		registry.ServeHTTPS(443, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/hello":
				fmt.Fprintf(rw, `{"name":"hello","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"hello","version":"1.0.0",
					"dist":{"tarball":"https://registry.example/hello.tgz","integrity":"sha512-%s"}}}}`, base64.StdEncoding.EncodeToString(sum[:]))
			case "/hello.tgz":
				_, _ = rw.Write(archive.Bytes())
			default:
				http.NotFound(rw, r)
			}
		}), "registry.example")
		install := []string{"npm", "install", "hello", "--prefix", w.user.Home, "--registry", "https://registry.example/", "--cafile", w.CAFile(),
			"--fetch-retries", "0", "--no-audit", "--no-fund", "--no-update-notifier"}

		denied := w.run(append([]string{"--allow", "example.com", "--proxy-env", "--"}, install...)...)
		if denied.code == 0 {
			t.Errorf("it is installed: %s", denied.stdout)
		}
		wants(t, denied.stderr, "appfw: denied tcp registry.example:443: no rule allows it (to allow: --allow registry.example:443)", "403")
		w.untouched(registry)
		w.ok(w.run(append([]string{"--allow", "registry.example", "--proxy-env", "--"}, install...)...))

		log := w.user.Home + "/log.json"
		s := w.serve("--listen", "127.0.0.1:1080", "--allow", "registry.example", "--log", log)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		alone := w.Command(ctx, w.user, install[0], append(install[1:], "--https-proxy", "http://127.0.0.1:1080", "--force", "--prefer-online")...)
		w.ok(w.finish(alone))
		if b := mustRead(t, w.user.Home+"/node_modules/hello/package.json"); string(b) != manifest {
			t.Errorf("it has %s", b)
		}
		s.stop()
		wants(t, string(mustRead(t, log)), `"verdict":"allow","direction":"out","proto":"tcp","addr":"11.22.0.33","port":443,"name":"registry.example","client":"127.0.0.1:`)
	})
}

// second is the error of two results.
func second(_ int, err error) error { return err }
