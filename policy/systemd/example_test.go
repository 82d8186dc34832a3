package systemd_test

import (
	"fmt"
	"strings"

	"appfw/policy"
	"appfw/policy/systemd"
)

// A unit that may reach its own network alone, as a policy.
func ExampleUnit_Policy() {
	u, err := systemd.Read([]systemd.File{{Name: "files.service", Content: []byte("[Service]\nIPAddressDeny=any\nIPAddressAllow=10.0.0.0/24\n")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, notes, err := u.Policy(func(url string) error { return fmt.Errorf("%s: no upstream is taken", url) })
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "allow ") || strings.HasPrefix(line, "d") {
			fmt.Print(line)
		}
	}
	fmt.Println(len(notes), "notes")
	// Output:
	// default deny
	// deny       0.0.0.0/0          # IPAddressDeny=any (files.service:2)
	// deny       ::/0               # IPAddressDeny=any (files.service:2)
	// allow      10.0.0.0/24        # IPAddressAllow=10.0.0.0/24 (files.service:3)
	// deny-from  0.0.0.0/0          # IPAddressDeny=any (files.service:2)
	// deny-from  ::/0               # IPAddressDeny=any (files.service:2)
	// 0 notes
}

// What systemd can keep of a policy. It knows no names: the notes say so.
func ExampleDropIn() {
	lines, err := policy.ReadLines("build.policy", strings.NewReader("allow 10.0.0.0/30\ndeny 10.0.0.2\nallow localhost\nallow example.com\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, notes, err := systemd.DropIn(p, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, settings, _ := strings.Cut(text, "\n\n")
	fmt.Print(settings)
	fmt.Println(notes[1])
	// Output:
	// [Service]
	// # Lists that the unit has are reset.
	// IPAddressAllow=
	// IPAddressDeny=
	// IPAddressDeny=any
	// IPAddressAllow=10.0.0.0/31 10.0.0.3 127.0.0.0/8 ::1
	// narrower: allow example.com (build.policy:4): names need appfw systemd netns or proxy
}
