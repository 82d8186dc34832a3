package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// cacheMeasures are of questions that the cache can answer.
var cacheMeasures = []measure{
	{dnsperfMode, far, 1, "", []figure{{"cached DNS questions", "1/s"}, {"same, mean latency", "µs"}}},
}

const (
	// dnsperfMode is a measure by dnsperf(1), with 100 questions under way.
	dnsperfMode = "dnsperf"
	// cachedNames and cachedQuestions are files: 1,000 names, each with an address of its own, and for dnsperf.
	cachedNames     = "names"
	cachedQuestions = "questions"
	// appfwDNS is where appfw answers.
	appfwDNS = "192.0.0.1:53"
)

// caches starts forwarding DNS caches, and lists them. dnsmasq and unbound serve on the simulated host's loopback,
// which is nearer to dnsperf than appfw's namespace is.
func (b *bench) caches(t *tb) table {
	list := look([]tool{
		{name: "appfw", needs: "dnsperf", dns: appfwDNS, wrap: appfw(b.dir)},
		{name: "dnsmasq", needs: "dnsmasq", dns: "127.0.0.1:5301", wrap: bare},
		{name: "unbound", needs: "unbound", dns: "127.0.0.1:5302", wrap: bare},
	})
	if list[0].missing {
		return table{missing: "DNS caches: not measured, as dnsperf is not installed."}
	}
	var names, questions strings.Builder
	for i := range 1000 {
		name := fmt.Sprintf("n%d.%s", i, dnsName)
		b.internet.Zone().Handle(name, answering(netip.AddrFrom4([4]byte{11, 23, byte(i / 250), byte(i % 250)})))
		fmt.Fprintln(&names, name)
		fmt.Fprintln(&questions, name, "A")
	}
	resolver := b.internet.Resolver4().String()
	unbound := fmt.Sprintf(`
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
`, resolver)
	for name, text := range map[string]string{cachedNames: names.String(), cachedQuestions: questions.String(), "unbound.conf": unbound} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !list[1].missing {
		b.serve(t, "started", "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=", "--user=", "--no-hosts",
			"--no-resolv", "--server="+resolver, "--listen-address=127.0.0.1", "--bind-interfaces", "--port=5301", "--cache-size=10000")
	}
	if !list[2].missing {
		b.serve(t, "start of service", "unbound", "-d", "-c", filepath.Join(b.dir, "unbound.conf"))
	}
	return table{tools: list, measures: cacheMeasures}
}

// answering answers with an address. Records of the zone would slow down all that it is asked.
func answering(addr netip.Addr) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: addr.AsSlice()}}
		_ = w.WriteMsg(m) // the client is gone
	}
}

// serve starts a server of the simulated host, and waits for the word by which it says that it serves.
func (b *bench) serve(t *tb, word, name string, args ...string) {
	c := b.internet.Command(b.ctx, b.internet.Ordinary(), name, args...)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = write, write
	err = c.Start()
	_ = write.Close()
	if err != nil {
		t.Fatal(err)
	}
	said, all := bufio.NewScanner(read), ""
	for said.Scan() {
		all += said.Text() + "\n"
		if strings.Contains(said.Text(), word) {
			go func() { // for what else it may say
				for said.Scan() {
				}
			}()
			return
		}
	}
	t.Fatalf("%s does not start: %s", name, all)
}

// dnsperfScript asks server $1 the questions $0 once, so that the cache has the answers, and then for $2 seconds.
const dnsperfScript = `
ask() { dnsperf -s "${1%:*}" -p "${1#*:}" -d "$0" "$2" "$3" -c 10 -q 100; }
ask "$1" -n 1 >/dev/null && ask "$1" -l "$2"
`

func dnsperf(dir, server string, span time.Duration) []string {
	return []string{"sh", "-c", dnsperfScript, filepath.Join(dir, cachedQuestions), server, fmt.Sprint(span.Seconds())}
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
