package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"appfw/testdata/internet"
)

// torNet is a Tor network: three authorities, two exits and an onion service, each
// with an address of its own in the internet, and a client on the user's host.
type torNet struct {
	*world
	zone     *internet.Zone // what the exits ask, and nobody else
	onion    string         // the onion service: web.example at port 80, git.example at 22
	common   string         // the lines of torrc(5) that all have
	client   *tor
	exitLogs []string // the files
}

// tor is a Tor process.
type tor struct {
	cmd    *internet.Cmd
	socket string // for control
}

var (
	torAuthorities = []string{"11.22.0.70", "11.22.0.71", "11.22.0.72"}
	torExits       = []string{"11.22.0.73", "11.22.0.74"}
)

const (
	torResolver = "11.22.0.75"
	torService  = "11.22.0.76"
)

// torPatience is how long the network may take for anything; on a busy machine,
// seconds become many.
const torPatience = time.Minute

// torNet boots a network, quickly: the authorities vote when all of them know all
// relays, and not again while the tests run, so that nothing changes then. Those who
// fetch the outcome are started when there is one, as they would ask ever more seldom.
func (w *world) torNet() *torNet {
	w.t.Helper()
	n := &torNet{world: w, zone: w.NewZone(), client: new(tor)}
	w.Host(torResolver).ServeDNS(n.zone)
	w.Host(torService)
	n.common = `
		TestingTorNetwork 1
		Log notice stdout
		SafeLogging 0
		ShutdownWaitLength 0
		# It takes a second to read the real ones.
		GeoIPFile /dev/null
		GeoIPv6File /dev/null
		# Of five relays, guards leave too few to choose from.
		UseEntryGuards 0
		VanguardsLiteEnabled 0
		# A stream has one circuit, which can be compared.
		ConfluxEnabled 0
		` + n.authorityKeys()
	relay := `
		ORPort %[1]s:9001 IPv4Only
		Address %[1]s
		OutboundBindAddress %[1]s
		AssumeReachable 1
		SocksPort 0
		ServerDNSDetectHijacking 0
		ServerDNSResolvConfFile ` + w.write("tor/resolv.conf", "nameserver "+torResolver+"\n") + "\n"
	now := time.Now().Unix()
	var started []*tor
	for i, addr := range torAuthorities {
		w.Host(addr)
		started = append(started, n.start(n.Server, fmt.Sprint("authority", i), fmt.Sprintf(relay+`
			DirPort %[1]s:9030
			AuthoritativeDirectory 1
			V3AuthoritativeDirectory 1
			V3AuthVotingInterval 1800
			# In a quarter of an hour, at first.
			TestingV3AuthInitialVotingInterval 1800
			TestingV3AuthVotingStartOffset %[2]d
			TestingV3AuthInitialVoteDelay 2
			TestingV3AuthInitialDistDelay 2
			ContactInfo nobody
			ExitPolicy reject *:*
			`, addr, (now+900)%1800)))
	}
	for i, addr := range torExits {
		w.Host(addr)
		name := fmt.Sprint("exit", i)
		n.exitLogs = append(n.exitLogs, filepath.Join(n.torDir(name), "log"))
		n.start(n.Server, name, fmt.Sprintf(relay+`
			Log [edge]info file %[2]s
			# It would be asked for what it has not fetched yet.
			DirCache 0
			ExitRelay 1
			ExitPolicy accept *:*
			ExitPolicyRejectPrivate 0
			`, addr, n.exitLogs[i]))
	}
	relays := len(torAuthorities) + len(torExits)
	var authorities []*control
	for _, a := range started {
		authorities = append(authorities, a.dial(w.t))
	}
	for _, a := range authorities {
		a.until("GETINFO desc/all-recent", `^router `, relays)
	}
	now = time.Now().Unix()
	for _, a := range authorities { // vote, so that it counts in four seconds
		a.ask(fmt.Sprintf("SETCONF TestingV3AuthInitialVotingInterval=5 TestingV3AuthVotingStartOffset=%d", (now+4)%5))
	}
	for _, a := range authorities {
		a.until("GETINFO ns/all", `^s .*Running`, relays)
	}

	onion := filepath.Join(n.torDir("service"), "onion")
	service := n.start(n.Server, "service", `
		SocksPort 0
		OutboundBindAddress `+torService+`
		HiddenServiceDir `+onion+`
		HiddenServicePort 80 11.22.0.40:80
		HiddenServicePort 22 11.22.0.42:22
		`).dial(w.t)
	service.ask("SETEVENTS HS_DESC")
	n.startClient()
	for range len(torAuthorities) + 1 { // it has two descriptors, for the authorities: then both are there
		service.event("HS_DESC UPLOADED")
	}
	name, err := os.ReadFile(filepath.Join(onion, "hostname"))
	if err != nil {
		w.t.Fatal(err)
	}
	n.onion = strings.TrimSpace(string(name))
	return n
}

// exited is what the exits' logs say.
func (n *torNet) exited() string {
	n.t.Helper()
	var logs strings.Builder
	for _, path := range n.exitLogs {
		log, err := os.ReadFile(path)
		if err != nil {
			n.t.Fatal(err)
		}
		logs.Write(log)
	}
	return logs.String()
}

// startClient starts the user's Tor, and waits until it is of use.
func (n *torNet) startClient() {
	n.t.Helper()
	onHost := func(name string, args ...string) *internet.Cmd {
		c := n.Command(context.Background(), n.Root(), name, args...) // outlives the subtest
		log := newOutput()
		c.Stdout = log
		n.t.Cleanup(func() {
			if n.t.Failed() {
				n.t.Logf("the client: %s", log)
			}
		})
		if err := c.Start(); err != nil {
			n.t.Fatal(err)
		}
		return c
	}
	*n.client = *n.start(onHost, "client", "SocksPort 127.0.0.1:9050\nClientOnly 1\n")
	n.client.dial(n.t).until("GETINFO status/bootstrap-phase", `PROGRESS=100`, 1)
}

// start starts a Tor with a torrc(5).
func (n *torNet) start(run func(name string, args ...string) *internet.Cmd, name, torrc string) *tor {
	n.t.Helper()
	dir := n.torDir(name)
	socket := filepath.Join(dir, "control")
	torrc += n.common + fmt.Sprintf("\nNickname %s\nDataDirectory %s\nControlSocket %s\n", name, dir, socket)
	return &tor{run("tor", "-f", n.write("tor/"+name+".torrc", torrc)), socket}
}

// torDir is the directory of a Tor's data.
func (n *torNet) torDir(name string) string {
	n.t.Helper()
	dir := filepath.Join(n.Dir(), "tor", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	return dir
}

// authorityKeys makes the authorities' keys, and returns the lines of torrc(5) that
// say who they are.
func (n *torNet) authorityKeys() (lines string) {
	n.t.Helper()
	const script = `mkdir -m 700 keys
		echo password | tor-gencert --create-identity-key -m 12 -a "$1:9030" --passphrase-fd 0 \
			-i keys/authority_identity_key -s keys/authority_signing_key -c keys/authority_certificate 2> /dev/null
		v3=$(sed -n 's/^fingerprint //p' keys/authority_certificate)
		id=$(tor --list-fingerprint --quiet -f /nonexistent --ignore-missing-torrc --DataDirectory "$PWD" --Nickname "$0" \
			--ORPort 1 --DirAuthority "x 127.0.0.1:1 $v3" | sed -n 's/^[^ ]* //; s/ //g; $p')
		echo "DirAuthority $0 orport=9001 no-v2 v3ident=$v3 $1:9030 $id"`
	made := make([]string, len(torAuthorities))
	var making errgroup.Group
	for i, addr := range torAuthorities {
		name := fmt.Sprint("authority", i)
		c := exec.CommandContext(n.t.Context(), "sh", "-ec", script, name, addr)
		c.Dir = n.torDir(name)
		making.Go(func() error {
			line, err := c.Output()
			made[i] = string(line)
			return err
		})
	}
	if err := making.Wait(); err != nil {
		n.t.Fatal(err)
	}
	return strings.Join(made, "")
}

// control is a connection to a Tor's control socket (control-spec).
type control struct {
	t      *testing.T
	conn   net.Conn
	lines  *bufio.Scanner
	events []string // that came with answers
}

// dial connects to the control socket, when Tor is ready for that.
func (p *tor) dial(t *testing.T) *control {
	t.Helper()
	c := &control{t: t}
	eventually(t, "connecting to "+p.socket, func() bool {
		conn, err := net.Dial("unix", p.socket)
		c.conn = conn
		return err == nil
	})
	t.Cleanup(func() { c.conn.Close() })
	c.lines = bufio.NewScanner(c.conn)
	c.ask("AUTHENTICATE")
	return c
}

// ask says a command, and returns the answer.
func (c *control) ask(command string) string {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", command); err != nil {
		c.t.Fatal(err)
	}
	var answer strings.Builder
	for data := false; ; {
		line := c.line()
		switch {
		case data:
			data = line != "."
		case strings.HasPrefix(line, "650 "):
			c.events = append(c.events, line)
			continue
		case strings.HasPrefix(line, "250+"):
			data = true
		case strings.HasPrefix(line, "250 "):
			return answer.String()
		case !strings.HasPrefix(line, "250-"):
			c.t.Fatalf("%s: %s", command, line)
		}
		fmt.Fprintln(&answer, line)
	}
}

func (c *control) line() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(torPatience))
	if !c.lines.Scan() {
		c.t.Fatalf("a Tor says nothing: %v", c.lines.Err())
	}
	return c.lines.Text()
}

// event waits for an event that begins so, and forgets those before it.
func (c *control) event(prefix string) string {
	c.t.Helper()
	for {
		var line string
		if len(c.events) > 0 {
			line, c.events = c.events[0], c.events[1:]
		} else {
			line = c.line()
		}
		if strings.HasPrefix(line, "650 "+prefix) {
			return line
		}
	}
}

// until asks until count lines of the answer match.
func (c *control) until(command, pattern string, count int) {
	c.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	eventually(c.t, command, func() bool { return len(re.FindAllString(c.ask(command), -1)) >= count })
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for deadline := time.After(torPatience); !is(); {
		select {
		case <-retry.C: // nobody tells
		case <-deadline:
			t.Fatalf("%s: not within %v", what, torPatience)
		}
	}
}
