package inforce_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"appfw/netns/route"
	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
)

// A policy in a file, which is read anew when it has changed.
func Example() {
	dir, err := os.MkdirTemp("", "inforce")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "app.policy")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			log.Fatal(err)
		}
	}
	write("allow 192.0.2.0/24")
	read := make(chan string, 1)
	j := journal.New(journal.Config{Stderr: os.Stderr, Quiet: true, Notify: func(state string) { read <- state }})
	defer j.Close()
	routes := route.New()
	defer routes.Close()
	p, err := inforce.Open(inforce.Config{
		Source:  source.Source{Lines: []policy.Line{{Word: "policy", Arg: file}}},
		Journal: j,
	}, proxy.Config{Routes: routes})
	if err != nil {
		log.Fatal(err)
	}
	decide := func() {
		d := p.Proxy.Decide(p.Current().Policy, policy.TCP, netip.MustParseAddrPort("192.0.2.7:80"))
		fmt.Println(d.Verdict.Action)
	}
	decide()
	write("deny 192.0.2.7\nallow 192.0.2.0/25")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go p.Watch(ctx, nil) // which sees that the file has changed
	fmt.Println(<-read)
	decide()
	// Output:
	// allow
	// READY=1
	// STATUS=the policy was read anew
	// deny
}
