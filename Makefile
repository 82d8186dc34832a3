# The two commands of the README are "make" and "make check".

export CGO_ENABLED ?= 0

# Debian packages of the programs that the tests run.
PACKAGES = aria2 bash busybox-static ca-certificates connect-proxy curl dante-server dnsutils fakeroot gcc git gnutls-bin \
	groff-base iproute2 iputils-ping libc6-dev libcurl3-gnutls libcurl3-nss libgit2-1.5 man-db mandoc musl-tools ncat nftables \
	nginx-light ngtcp2-client nodejs microsocks openssh-client openssh-server openssl proxychains4 python3 python3-httpx squid \
	systemd-container tinyproxy tor torsocks tsocks wget $(SERVERS)
# Other packages of Node.js than Debian's bring it along.
PACKAGES += $(if $(shell command -v npm),,npm)
# Servers that differ in what they take for a request or a handshake.
SERVERS = daphne default-jdk-headless haproxy libevent-dev libhttp-daemon-perl libjakarta-annotation-api-java \
	libjetty9-java libmbedtls-dev libmicrohttpd-dev libnss3-tools libtomcat10-embed-java lighttpd merecat mini-httpd \
	php-cli puma python3-aiohttp python3-cheroot python3-gunicorn python3-hypercorn python3-tornado python3-twisted \
	python3-uvicorn python3-waitress python3-werkzeug ruby-webrick starman varnish webfs
# And of those that appfw is measured beside.
PEERS = bubblewrap dnsmasq-base dnsperf firejail passt slirp4netns uidmap unbound

GO_DIRS = ./... ./testdata/internet ./testdata/machine ./testdata/gotest ./testdata/bench

appfw: ## build the program (what make does)
appfw: $(shell find cmd dnsguard netns policy proxy -name '*.go' -o -path 'cmd/manual/*' -type f) go.mod go.sum
	go build -trimpath -o $@ ./cmd/appfw

.PHONY: help check packages lint test race fuzz cover bench soak install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 12

check: ## all tests: packages, lint, test, race
check: packages lint test race

packages: ## install the Debian packages that the tests run, where they are missing
	testdata/packages $(PACKAGES)

lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	go vet $(GO_DIRS)
	go tool staticcheck $(GO_DIRS)
	go vet -tags soak ./cmd/appfw
	go tool staticcheck -tags soak ./cmd/appfw

test: ## all tests, as root
	go run ./testdata/gotest -count=1 -timeout 20m ./testdata/internet ./...

# The detector needs cgo. Of the end-to-end tests, those that differ in what
# runs at the same time: names, all transports, both gates, logs, load.
RACY = AllowedName|ShownName|UDP|Ping|HostLoopback|TestResolver$$|Cache|TestLog$$|Ends|Burst|DescriptorLimit|Signals|SentBeforeExit|TestQUIC$$|TLSClients|ReloadCuts|Upstream|Serve|ExplicitUDP|ExplicitShownName|Publish|Attach|TestStuck$$|DeniedFlood
race: ## those tests under the race detector that it may tell something
	CGO_ENABLED=1 go run ./testdata/gotest -race -count=1 ./dnsguard/... ./netns/... ./policy/... ./proxy/...
	CGO_ENABLED=1 go run ./testdata/gotest -race -count=1 -timeout 20m -run '$(RACY)' ./cmd/appfw

# Every fuzz target for a while: make fuzz FUZZTIME=10m
FUZZTIME = 30s
# So many requests TestServers plays to each server then.
MUTATIONS = 1000
fuzz: ## look for inputs that break a parser, FUZZTIME for each fuzz target
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd dnsguard netns policy proxy | sort | \
	while IFS=: read -r file func; do \
		set -x; go test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "./$${file%/*}" </dev/null || exit; { set +x; } 2>/dev/null; \
	done
	go test -count=1 -timeout 0 -run '^TestServers' ./cmd/appfw -mutations $(MUTATIONS)

# Root keeps its files there, and nothing else.
cover: ## how much of proxy is tested without root
	@profile=$$(mktemp) && trap 'rm -f "$$profile"' EXIT && \
	go test $(if $(filter 0,$(shell id -u)),-exec 'unshare --user') -coverprofile "$$profile" ./proxy/... && \
	go tool cover -func "$$profile" | tail -n 1

bench: ## measure appfw and others beside it, anew in testdata/bench/figures.svg
	testdata/packages $(PACKAGES) $(PEERS)
	go run ./testdata/bench -plot testdata/bench/figures.svg

# Mixed traffic for a long time, while appfw is weighed: make soak SOAK=1h
SOAK = 10m
soak: ## mixed traffic for SOAK, while appfw is weighed
	go test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./cmd/appfw -soak $(SOAK)

PREFIX ?= /usr/local
install: ## install program, man pages, completions and examples below PREFIX
install: appfw
	install -D -m 755 appfw $(DESTDIR)$(PREFIX)/bin/appfw
	./appfw write-share $(DESTDIR)$(PREFIX)/share

# What is installed says itself which files it came with.
uninstall: ## remove what install put below PREFIX
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	"$(DESTDIR)$(PREFIX)/bin/appfw" write-share "$$dir" && \
	(cd "$$dir" && find . ! -type d) | while read -r file; do rm -f "$(DESTDIR)$(PREFIX)/share/$$file" || exit; done
	@rmdir --ignore-fail-on-non-empty "$(DESTDIR)$(PREFIX)/share/doc/appfw/examples" "$(DESTDIR)$(PREFIX)/share/doc/appfw"
	rm -f "$(DESTDIR)$(PREFIX)/bin/appfw"

clean: ## remove the program
	rm -f appfw
