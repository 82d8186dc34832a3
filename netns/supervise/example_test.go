package supervise_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"appfw/netns"
	"appfw/netns/supervise"
)

// The process that was called: it opens the log, and stands for the program.
func ExampleSupervisor() {
	s, err := supervise.NewSupervisor()
	if err != nil {
		fmt.Println(err)
		return
	}
	log, err := os.Create("out.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	var passed supervise.Passed
	passed.Add(supervise.Log, log)
	cmd := exec.Command("/proc/self/exe", "gateway", "true")
	netns.InUserNamespace(cmd, nil)
	if err := s.Start(cmd, passed); err != nil {
		fmt.Println(err)
		return
	}
	code, err := s.Wait()
	if killed, ok := errors.AsType[*supervise.KilledError](err); ok {
		fmt.Println("the program has no network now:", killed.Signal)
		code = 125
	}
	os.Exit(code)
}

// The process between: it serves the program's network until that has ended.
func ExampleGateway() {
	g, err := supervise.Inherit()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprintln(g.File(supervise.Log, "out.json"), "{}")
	ns, err := netns.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	program, err := g.Start(func() (pid int, err error) {
		return ns.Start(netns.Command{Args: os.Args[2:], Dir: "/", Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		<-g.Orphaned
		os.Exit(125)
	}()
	status, err := program.Wait()
	fmt.Println(status.ExitStatus(), err)
}
