package doctor_test

import (
	"context"
	"fmt"

	"appfw/netns/doctor"
	"appfw/netns/view"
)

// It is for a process in a user namespace of its own.
func Example() {
	_ = func(ctx context.Context, host view.Host) bool {
		look := func() (doctor.View, error) { return view.Watch(host), nil }
		return doctor.Probe(ctx, look, func(f doctor.Finding) { fmt.Println(f.What, f.Err) })
	}
}
