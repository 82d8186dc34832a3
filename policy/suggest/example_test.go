package suggest_test

import (
	"fmt"
	"strings"

	"appfw/policy/suggest"
)

func ExampleHistory_Policy() {
	log := `{"event":"dns","verdict":"allow","direction":"out","name":"registry.example","type":"A"}
{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"11.22.0.1","port":443,"name":"registry.example"}
{"event":"decision","verdict":"allow","direction":"out","proto":"tcp","addr":"11.22.0.1","port":443,"name":"registry.example"}
{"event":"decision","verdict":"deny","direction":"out","proto":"udp","addr":"11.22.0.9","port":123}
`
	h := suggest.New(suggest.Host{})
	if err := h.Read("npm.json", strings.NewReader(log)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(h.Policy())
	// Output:
	// # Made by appfw suggest of what a program did, good or bad. Read it before you use it.
	// allow  registry.example:443/tcp                 # 2 times
	// # allow  11.22.0.9:123/udp                      # once, denied
}
