package dnsguard_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"appfw/dnsguard"
	"appfw/policy"
)

// A name that a rule allows is answered, here by a hosts file, and its address pinned to
// it; of another name nobody is asked.
func Example() {
	lines, err := policy.ReadLines("app.policy", strings.NewReader("allow db.example"))
	if err != nil {
		log.Fatal(err)
	}
	rules, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		log.Fatal(err)
	}
	pins := new(dnsguard.Pins)
	hosts := map[policy.Name][]netip.Addr{"db.example": {netip.MustParseAddr("93.184.216.34")}}
	guard := dnsguard.New(dnsguard.Config{
		Policy: func() *policy.Policy { return rules }, Pins: pins,
		Hosts: func() map[policy.Name][]netip.Addr { return hosts },
	})
	for _, name := range []string{"db.example.", "ads.example."} {
		answer := guard.Answer(context.Background(), new(dns.Msg).SetQuestion(name, dns.TypeA))
		fmt.Println(name, dns.RcodeToString[answer.Rcode], len(answer.Answer))
	}
	fmt.Println(pins.Of(netip.MustParseAddr("93.184.216.34"), time.Now())[0].Name)
	// Output:
	// db.example. NOERROR 1
	// ads.example. NXDOMAIN 0
	// db.example
}
