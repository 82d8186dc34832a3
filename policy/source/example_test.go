package source_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"appfw/policy"
	"appfw/policy/source"
)

func Example() {
	dir, err := os.MkdirTemp("", "policy")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "app.policy")
	if err := os.WriteFile(file, []byte("allow example.com\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	s := source.Source{
		Lines:   []policy.Line{{Word: "policy", Arg: file, Pos: policy.Pos{File: "--policy"}}},
		Writers: source.SameUser(),
	}
	current, err := s.Load()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(current.Policy.DecideName("example.com").Action, filepath.Base(current.Files()[0]))

	reload := func() *source.Loaded {
		next, err := s.Load()
		if err == nil {
			err = source.CheckReload(current.Policy, next.Policy)
		}
		if err != nil {
			fmt.Println("the policy stays as it was:", err)
			return current
		}
		current = next
		return current
	}
	asked := make(chan struct{}, 1) // by a signal, say
	ctx, stop := context.WithCancel(context.Background())
	stop() // an app that ends at once
	s.Watch(ctx, current, asked, reload, func(text string) { fmt.Println(text) })
	// Output:
	// allow app.policy
}
