package main
import ("testing";"time";"path/filepath";"os")
func TestZZ(t *testing.T) {
	if p := os.Getenv("ZZPROG"); p != "" { program = p }
	both(t, func(w *world) {
		w.Host("11.22.0.43", "2a0d:aaaa::43").Name("bulk.example")
		slow := 0
		for range 100 {
			path := filepath.Join(w.user.Home, "log")
			os.Remove(path)
			r := w.run("--allow", "bulk.example:9", "--log", path, "--", "bash", "-c", `echo > /dev/tcp/bulk.example/1001; grep -E '^(Ip|Udp):' /proc/net/snmp; cat /proc/net/dev; cat /proc/net/softnet_stat; grep -E '^(TcpExt)' /proc/net/netstat | tail -1`)
			if r.took > time.Second { slow++; if slow == 1 { b,_ := os.ReadFile(path); t.Log(r.took, r.stdout, string(b)) } }
		}
		t.Log("slow", slow)
	})
}
