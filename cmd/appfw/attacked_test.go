package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// attackedLimitMB is what a run may take, whatever its program does: processes of its own,
// at their largest.
const attackedLimitMB = 300

// attacker takes memory of appfw's by all ways at the same time: connections that never
// show whole what they begin to show, or never say to a proxy where they go, questions for
// names with many and long aliases, questions whose answers it never reads, flows of
// datagrams, and denials for the log. It prints how many of each there were.
const attacker = `
import os, random, resource, selectors, socket, struct, threading, time
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
ENOUGH = 5.0
began = time.time()
counts = {}

def going(): return time.time() - began < ENOUGH

def connections(what, n, to, head):
    "n connections that say head, as much of it as is taken, and no more"
    poll, socks = selectors.DefaultSelector(), []
    for _ in range(n):
        s = socket.socket(); s.setblocking(False)
        try: s.connect(to)
        except BlockingIOError: pass
        except OSError: s.close(); continue
        poll.register(s, selectors.EVENT_WRITE, [head]); socks.append(s)
        if len(socks) % 50 == 0: pump(poll)
    while going(): pump(poll)
    counts[what] = len(socks)

def pump(poll):
    for key, _ in poll.select(0.05):
        try: key.data[0] = key.data[0][key.fileobj.send(key.data[0]):]
        except OSError: key.data[0] = b""
        if not key.data[0]: poll.unregister(key.fileobj)

def name(n): return b"".join(bytes([len(l)]) + l for l in (b"n%d" % n, b"long", b"example")) + b"\0"

def question(n): return struct.pack(">HHHHHH", n & 0xffff, 0x100, 1, 0, 0, 0) + name(n) + struct.pack(">HH", 1, 1)

def names(first):
    s, n = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0
    s.connect(("192.0.0.1", 53)); s.settimeout(0.2)
    while going():
        for _ in range(50): s.send(question(first + n)); n += 1
        try:
            for _ in range(50): s.recv(4096)
        except OSError: pass
    counts["names %d" % first] = n

def datagrams():
    n = 0
    socks = []
    while going() and n < 3000:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False)
        try: s.connect((example, 9)); s.send(b"x" * 1200); socks.append(s)
        except OSError: pass
        n += 1
    while going(): time.sleep(0.05)
    counts["datagrams"] = n

def denied():
    s, n = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0
    while going():
        try: s.sendto(b"x", ("11.%d.%d.%d" % (random.randrange(100, 200), random.randrange(256), random.randrange(256)), 9))
        except OSError: pass
        n += 1
    counts["denied"] = n

example = socket.gethostbyname("example.com")
hello = b"\x16\x03\x01\x40\x00\x01\x00\xf0\x00\x03\x03" + b"\0" * 0x3ff9 + (b"\x16\x03\x01\x40\x00" + b"\0" * 0x4000) * 3
head = b"GET / HTTP/1.1\r\nX: " + b"x" * 60000
asked = b"".join(struct.pack(">H", len(question(i))) + question(i) for i in range(2000))
threads = [threading.Thread(target=f, args=a) for f, a in [
    (connections, ("hellos", 2000, (example, 443), hello)),
    (connections, ("heads", 2000, (example, 80), head)),
    (connections, ("greetings", 1500, ("192.0.0.1", 1080), b"\x05")),
    (connections, ("forwarded", 500, ("192.0.0.1", 1080), b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\nX: " + b"x" * 60000)),
    (connections, ("pipelines", 200, ("192.0.0.1", 53), asked)),
    (names, (0,)), (names, (1000000,)), (names, (2000000,)), (names, (3000000,)),
    (datagrams, ()), (denied, ()),
]]
for t in threads: t.start()
for t in threads: t.join()
print(counts)
`

// A run that is attacked in all these ways at once takes little memory, and serves when it
// is over.
func TestAttacked(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	label := strings.Repeat("a", 60)
	w.Zone().Handle("long.example", func(rw dns.ResponseWriter, q *dns.Msg) {
		m, name := new(dns.Msg).SetReply(q), q.Question[0].Name
		for i := range 5 {
			alias := fmt.Sprintf("%s.%s.%d.%s", label, label, i, q.Question[0].Name)
			rr, err := dns.NewRR(name + " 1 IN CNAME " + alias)
			if err != nil {
				return
			}
			m.Answer, name = append(m.Answer, rr), alias
		}
		for i := range 4 {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 1 IN A 11.22.0.%d", name, 100+i))
			m.Answer = append(m.Answer, rr)
		}
		_ = rw.WriteMsg(m)
	})
	script := w.write("attack.py", attacker)
	log := w.user.Home + "/log.json"
	s := w.session("--quiet", "--allow", "example.com", "--allow", "*.long.example", "--dns-budget", "0", "--log", log, "--", "sh")
	s.ok(getExample)
	pids := s.processes()
	out := s.ok("exec 2>&1; python3 " + script)
	largest := 0
	for _, pid := range pids {
		largest += field(t, pid, "status", "VmHWM:") / 1024
	}
	t.Logf("%d MB; %s", largest, out)
	if largest > attackedLimitMB {
		t.Errorf("it took %d MB; %s", largest, out)
	}
	s.until(getExample, "hello")
}
