package tenants_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/journal"
	"appfw/proxy/tenants"
)

// Two users, of whom one has a policy of her own.
func Example() {
	dir, err := os.MkdirTemp("", "tenants")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			log.Fatal(err)
		}
		return path
	}
	own := write("ann.policy", "allow 192.0.2.7")
	users := write("users", "ann secret1 "+own+"\nbob secret2\n")
	j := journal.New(journal.Config{Stderr: os.Stderr})
	defer j.Close()
	routes := route.New()
	defer routes.Close()
	ctx, cancel := context.WithCancel(context.Background())
	t := tenants.New(tenants.Config{
		Lines: []policy.Line{{Word: "allow", Arg: "192.0.2.8"}},
		Users: users, Option: "--users", Journal: j, Routes: routes,
	})
	if _, err := t.Open(ctx); err != nil {
		log.Fatal(err)
	}
	for _, who := range [][2]string{{"ann", "secret1"}, {"bob", "secret2"}, {"bob", "secret1"}} {
		p := t.Admit(who[0], who[1])
		if p == nil {
			fmt.Println(who[0], "is not let in")
			continue
		}
		for _, to := range []string{"192.0.2.7:80", "192.0.2.8:80"} {
			d := p.Decide(p.Policy(), policy.TCP, netip.MustParseAddrPort(to))
			fmt.Println(who[0], to, d.Verdict.Action)
		}
	}
	cancel()
	t.Wait()
	// Output:
	// ann 192.0.2.7:80 allow
	// ann 192.0.2.8:80 deny
	// bob 192.0.2.7:80 deny
	// bob 192.0.2.8:80 allow
	// bob is not let in
}
