package main

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func init() { probes["sockets-of-udp"] = probeUDPSockets }

// probeUDPSockets has 32 threads each ask args[0] a question of its own by args[1] sockets, one after the other, and
// prints how many got no answer, and how many that of another.
func probeUDPSockets(args []string) error {
	each, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var lost, crossed atomic.Int64
	var all sync.WaitGroup
	for thread := range 32 {
		all.Go(func() {
			for i := range each {
				switch question := fmt.Sprintf("%d of %d", i, thread); ask(args[0], question) {
				case question:
				case "":
					lost.Add(1)
				default:
					crossed.Add(1)
				}
			}
		})
	}
	all.Wait()
	fmt.Printf("%d lost, %d crossed\n", lost.Load(), crossed.Load())
	return nil
}

// ask is the first datagram that comes to a new socket which sends a question; "" if none comes.
func ask(address, question string) string {
	c, err := net.Dial("udp", address)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 100)
	if _, err := c.Write([]byte(question)); err != nil {
		return ""
	}
	n, _ := c.Read(b) // of what does not come, there is nothing
	return string(b[:n])
}

// TestUDPSockets: many new sockets at once to one server each get their own answers, and all of them.
func TestUDPSockets(t *testing.T) {
	w := newWorld(t)
	w.example.ServeUDP(5000, func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo(b, from) })
	bare := probing("sockets-of-udp", "11.22.0.10:5000", "60")
	t.Log("bare: ", w.ok(w.finish(w.Command(t.Context(), w.user, bare[0], bare[1:]...))))
	for _, address := range []string{"11.22.0.10:5000", "[2a0d:aaaa::10]:5000"} {
		for _, policy := range []string{"example.com", "any"} {
			out := w.ok(w.run(append([]string{"--allow", policy, "--"}, probingAfter("getent ahosts example.com", "sockets-of-udp", address, "60")...)...))
			if out != "0 lost, 0 crossed\n" {
				t.Errorf("%s, --allow %s: %s", address, policy, out)
			}
		}
	}
}

// probingAfter is the command line of a probe that runs after a command.
func probingAfter(command, name string, args ...string) []string {
	return append([]string{"sh", "-c", command + ` > /dev/null && exec "$@"`, "sh"}, probing(name, args...)...)
}
