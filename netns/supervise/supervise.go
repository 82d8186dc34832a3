// Package supervise is how the three processes of a run hold together: what was
// called, what serves the program's network, and the program.
//
//	caller        a shell, make(1), systemd
//	  │ waits
//	supervisor    what was called, with the rights that it was called with
//	  │ waits     ▲
//	  │           │ control socket, and what was opened with these rights
//	  │           ▼
//	gateway       this executable again, in a user namespace, which owns the
//	  │ waits     namespaces of the program's network
//	program       in these, confined (package netns)
//
// All three have the same standard input, output and error, 0 to 2. Descriptor 3 is
// the control socket in the gateway, and those from 4 on are what the supervisor
// passes by [Passed]; the program has none of them. What is said on the control socket
// is in protocol.go.
//
// To the caller, the supervisor is the program. A signal that it alone got is passed
// on; when the program stops, it stops; and when the program ends, the gateway ends
// with its exit code, and so does the supervisor.
//
//	What dies first   What becomes of the others
//	program           the gateway delivers what is under way and ends, then the supervisor
//	gateway           the supervisor ends, with a [KilledError]; the program goes on, without a network
//	supervisor        the kernel kills the gateway (Pdeathsig); the program goes on, without a network
//
// In the supervisor:
//
//	s, err := supervise.NewSupervisor()
//	var passed supervise.Passed
//	passed.Add(supervise.Log, log)
//	err = s.Start(exec.Command("/proc/self/exe", "gateway"), passed)
//	code, err := s.Wait()
//
// and in the gateway:
//
//	g, err := supervise.Inherit()
//	log := g.File(supervise.Log, "out.json")
//	program, err := g.Start(func() (pid int, err error) { return ns.Start(command) })
//	status, err := program.Wait()
//
// It knows nothing of networks and policies, and does not exit: that is the callers'.
package supervise
