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
// passes by [Passed], and what the program inherits ([Gateway.Kept]), which has its own numbers
// there; the program has none of the others. What is said on the control socket is in
// protocol.go.
//
// To the caller, the supervisor is the program. A signal that it alone got is passed
// on; when the program stops, it stops; and when the program ends, the gateway says how,
// and the supervisor ends in the same way, by the same signal or with the same exit code.
//
//	What dies first   What becomes of the others
//	program           the gateway delivers what is under way and ends, then the supervisor
//	gateway           the kernel kills the program; the supervisor ends as one that was killed
//	supervisor        the kernel kills the gateway, and then the program
//
// The kernel does so by PR_SET_PDEATHSIG of prctl(2): the program is a child of the
// gateway's, which stays on the thread that made it. What the program has left behind
// goes on in any case, without a network.
//
// Nothing that the gateway waits for holds up the end: once the program has ended, the
// supervisor gives it [EndTime], and then kills it. While the program runs, it alone
// decides on what a signal means; before, signals that end programs end the run.
//
// In the supervisor:
//
//	s, err := supervise.NewSupervisor()
//	var passed supervise.Passed
//	passed.Add(supervise.Log, log)
//	err = s.Start(exec.Command("/proc/self/exe", "gateway"), passed)
//	ending, err := s.Wait()
//	ending.Exit()
//
// and in the gateway:
//
//	g, err := supervise.Inherit()
//	log := g.File(supervise.Log, "out.json")
//	program, err := g.Start(func(begun func()) (Child, error) { return ns.Start(command) })
//	ending, err := program.Wait()
//
// It knows nothing of networks and policies.
package supervise
