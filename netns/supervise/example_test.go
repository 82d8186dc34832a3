package supervise_test

import (
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
	ending, err := s.Wait()
	if err != nil {
		fmt.Println(err)
	}
	ending.Exit()
}

// The process between: it serves the program's network until that has ended.
func ExampleGateway() {
	g, err := supervise.Inherit()
	if err != nil {
		fmt.Println(err)
		return
	}
	limit, err := netns.OpenFilesLimit()
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
	files := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	program, err := g.Start(func(begun func()) (supervise.Child, error) {
		c, err := ns.Start(netns.Command{Args: os.Args[2:], Dir: "/", Files: files, Ignored: g.Ignored(), OpenFiles: limit, Begun: begun})
		if err != nil {
			return supervise.Child{}, err
		}
		return supervise.Child(*c), nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		<-g.Orphaned
		os.Exit(125)
	}()
	ending, err := program.Wait()
	fmt.Println(ending, err)
}
