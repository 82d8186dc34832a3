package publish_test

import (
	"fmt"
	"log"

	"appfw/proxy/publish"
)

// The process that may open ports and the one that serves them are two, or one, as here.
func Example() {
	ports, err := publish.Parse([]string{"127.0.0.1:18080:80", "127.0.0.1:18053:53/udp"})
	if err != nil {
		log.Fatal(err)
	}
	files, err := publish.Open(ports, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	intakes, err := publish.Intakes(ports, files)
	if err != nil {
		log.Fatal(err)
	}
	for _, in := range intakes {
		fmt.Println(in.TCP != nil, in.UDP != nil, in.Port)
	}
	// Output:
	// true false 80
	// false true 53
}
