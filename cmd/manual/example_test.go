package manual_test

import (
	"fmt"

	"appfw/cmd/manual"
)

func ExampleFind() {
	topic, found := manual.Find("policy")
	fmt.Println(found, topic.Title)
	// Output: true Write a policy: what a program may reach
}
