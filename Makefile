# The two commands of the README are "make" and "make check".

export CGO_ENABLED ?= 0

# Debian packages of the programs that the tests run.
PACKAGES = bash busybox-static ca-certificates curl dante-server dnsutils gcc git gnutls-bin iproute2 iputils-ping libc6-dev \
	libcurl3-gnutls libcurl3-nss libgit2-1.5 musl-tools ncat nftables nginx-light ngtcp2-client nodejs \
	microsocks openssh-client openssh-server openssl proxychains4 python3 systemd-container tinyproxy tor torsocks wget
# Other packages of Node.js than Debian's bring it along.
PACKAGES += $(if $(shell command -v npm),,npm)
# And of those that appfw is measured beside.
PEERS = bubblewrap dnsmasq-base dnsperf firejail passt slirp4netns uidmap unbound

GO_DIRS = ./... ./testdata/internet ./testdata/machine ./testdata/gotest ./testdata/bench

appfw: $(shell find cmd dnsguard netns policy proxy -name '*.go') go.mod go.sum
	go build -trimpath -o $@ ./cmd/appfw

.PHONY: check packages lint test race bench soak install clean
check: packages lint test race

packages:
	testdata/packages $(PACKAGES)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	go vet $(GO_DIRS)
	go tool staticcheck $(GO_DIRS)
	go vet -tags soak ./cmd/appfw
	go tool staticcheck -tags soak ./cmd/appfw

# The small internet by itself: its test looks at what is left on the machine.
test:
	go run ./testdata/gotest -count=1 ./testdata/internet
	go run ./testdata/gotest -count=1 ./...

# The detector needs cgo. Of the end-to-end tests, those that differ in what
# runs at the same time: names, all transports, both gates, logs, load.
RACY = AllowedName|ShownName|UDP|Ping|HostLoopback|TestResolver$$|Cache|TestLog$$|Ends|Burst|DescriptorLimit|Signals|SentBeforeExit|TestQUIC$$|TLSClients|ReloadCuts|Upstream|Serve|ExplicitUDP|ExplicitShownName|Publish|Attach
race:
	CGO_ENABLED=1 go run ./testdata/gotest -race -count=1 ./dnsguard ./netns ./netns/mmsg ./netns/tcp ./policy ./proxy
	CGO_ENABLED=1 go run ./testdata/gotest -race -count=1 -run '$(RACY)' ./cmd/appfw

bench:
	testdata/packages $(PACKAGES) $(PEERS)
	go run ./testdata/bench -plot testdata/bench/figures.svg

# Mixed traffic for a long time, while appfw is weighed: make soak SOAK=1h
SOAK = 10m
soak:
	go test -tags soak -count=1 -timeout 0 -v -run '^TestSoak$$' ./cmd/appfw -soak $(SOAK)

PREFIX ?= /usr/local
install: appfw
	install -D -m 755 appfw $(DESTDIR)$(PREFIX)/bin/appfw

clean:
	rm -f appfw
