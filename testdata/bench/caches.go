package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

var cacheMeasures = []measure{
	{cached, 0, "", []figure{{"cached DNS questions", "1/s", true}, {"same, mean latency", "µs", false}}},
	{uncached, 0, "", []figure{{"uncached DNS questions", "1/s", true}, {"same, mean latency", "µs", false}}},
}

const (
	// questions is a file of those for dnsperf(1), and cacheDomain what they are below.
	questions   = "questions"
	cacheDomain = "cache.example.com"
	// appfwDNS is where appfw answers.
	appfwDNS = "192.0.0.1:53"
)

// caches lists forwarding DNS caches. dnsmasq and unbound are started on the simulated host's loopback, which is nearer
// to dnsperf than appfw's namespace is. Without a cache, dnsperf asks the internet's resolver.
func (b *bench) caches(t *tb) table {
	resolver := b.internet.Resolver4().String()
	list := look([]tool{
		{name: "bare", needs: "dnsperf", dns: net.JoinHostPort(resolver, "53"), wrap: bare},
		{name: "appfw", dns: appfwDNS, wrap: b.appfw},
		{name: "dnsmasq", needs: "dnsmasq", dns: "127.0.0.1:5301", wrap: bare},
		{name: "unbound", needs: "unbound", dns: "127.0.0.1:5302", wrap: bare},
	})
	all := table{title: "DNS caches", place: far, tools: list, measures: cacheMeasures}
	if all.missing = list[0].missing; all.missing != "" {
		return all
	}
	err := writeFiles(b.dir, map[string]string{"unbound.conf": fmt.Sprintf(`
server:
	interface: 127.0.0.1@5302
	do-daemonize: no
	use-syslog: no
	username: ""
	chroot: ""
	directory: ""
	pidfile: ""
	module-config: "iterator"
forward-zone:
	name: "."
	forward-addr: %s
`, resolver)})
	if err != nil {
		t.Fatal(err)
	}
	all.start = func() (started serving, err error) {
		if list[2].missing == "" {
			err = b.serve(&started, "started", "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=", "--user=",
				"--no-hosts", "--no-resolv", "--server="+resolver, "--listen-address=127.0.0.1", "--bind-interfaces", "--port=5301", "--cache-size=10000")
		}
		if list[3].missing == "" && err == nil {
			err = b.serve(&started, "start of service", "unbound", "-d", "-c", filepath.Join(b.dir, "unbound.conf"))
		}
		return started, err
	}
	return all
}

// answer answers with an address of the name's own. Records of the zone would slow down all that it is asked.
func answer(w dns.ResponseWriter, q *dns.Msg) {
	name := q.Question[0].Name
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	addr := binary.BigEndian.AppendUint32(nil, 11<<24|1<<22|crc32.ChecksumIEEE([]byte(name))>>10) // in 11.64.0.0/10
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: addr}}
	_ = w.WriteMsg(m) // the client is gone
}

// serve starts a server of the simulated host, and waits for the word by which it says that it serves.
func (b *bench) serve(started *serving, word, name string, args ...string) error {
	c := b.internet.Command(b.ctx, b.internet.Ordinary(), name, args...)
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	c.Stdout, c.Stderr = write, write
	err = c.Start()
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		return err
	}
	*started = append(*started, c)
	said, all := bufio.NewScanner(read), ""
	for said.Scan() {
		all += said.Text() + "\n"
		if strings.Contains(said.Text(), word) {
			go func() { // for what else it may say
				defer func() { _ = read.Close() }()
				for said.Scan() {
				}
			}()
			return nil
		}
	}
	_ = read.Close()
	return fmt.Errorf("%s does not start: %s", name, all)
}

// dnsperfScript asks server $1 the questions $0 for $3 seconds, with 100 under way. If $2 is cached, it asks them once
// before, so that the cache has the answers.
const dnsperfScript = `
ask() { dnsperf -s "${server%:*}" -p "${server#*:}" -d "$questions" "$1" "$2" -c 10 -q 100; }
questions=$0 server=$1
{ [ "$2" != cached ] || ask -n 1 >/dev/null; } && ask -l "$3"
`

// dnsperf asks for names that are all known, or all new.
func (b *bench) dnsperf(t tool, mode string) ([]float64, error) {
	count, now := 1000, time.Now().UnixNano()
	if mode == uncached {
		count = int(200_000 * b.span.Seconds()) // more than can be asked
	}
	var text strings.Builder
	for i := range count {
		name := fmt.Sprintf("n%d-%d.%s", now, i, cacheDomain)
		b.internet.Zone().Handle(name, answer)
		defer b.internet.Zone().Clear(name)
		fmt.Fprintln(&text, name, "A")
	}
	if err := writeFiles(b.dir, map[string]string{questions: text.String()}); err != nil {
		return nil, err
	}
	said, err := b.output(t, []string{"sh", "-c", dnsperfScript, filepath.Join(b.dir, questions), t.dns, mode, fmt.Sprint(b.span.Seconds())}, "*."+cacheDomain)
	if err != nil {
		return nil, err
	}
	return readDnsperf(said)
}

var (
	dnsperfRate    = regexp.MustCompile(`Queries per second: *([\d.]+)`)
	dnsperfLatency = regexp.MustCompile(`Average Latency \(s\): *([\d.]+)`)
	dnsperfRight   = regexp.MustCompile(`Response codes: *NOERROR \d+ \(100.00%\)\n`)
)

// readDnsperf reads the figures of dnsperf.
func readDnsperf(said string) ([]float64, error) {
	rate, latency := dnsperfRate.FindStringSubmatch(said), dnsperfLatency.FindStringSubmatch(said)
	if rate == nil || latency == nil || !dnsperfRight.MatchString(said) {
		return nil, fmt.Errorf("dnsperf said %q", said)
	}
	r, err := strconv.ParseFloat(rate[1], 64)
	l, err2 := strconv.ParseFloat(latency[1], 64)
	return []float64{r, l * 1e6}, errors.Join(err, err2)
}
