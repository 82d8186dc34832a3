package main

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"appfw/netns/supervise"
	"appfw/netns/units"
	"appfw/policy"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
)

// printable is [policy.Printable] for a line of any length.
func printable(s string) string { return policy.Printable(s, 0) }

// lastTime bounds how long the last words of a process wait for who reads stderr.
const lastTime = time.Second

// outliveReaders keeps SIGPIPE from ending this process when it writes to stderr, and
// who read that is gone: the app would be without a network.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// lastWords prints to stderr, which may be a pipe that nobody reads.
func lastWords(text string) {
	outliveReaders()
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprint(os.Stderr, text)
	}()
	select {
	case <-said:
	case <-time.After(lastTime):
	}
}

// outputFlags are the flags of what records what happens.
type outputFlags struct {
	log   string
	most  policy.Size // of the log
	quiet bool
}

func (o *outputFlags) register(c *cobra.Command) {
	o.most = 1 << 30
	c.Flags().StringVar(&o.log, "log", "", "write one JSON object a decision to `FILE`; - is stderr")
	c.Flags().Var(&o.most, "log-max", "write no more than so many bytes to the log, as 64K, 10M or 1G; 0: any number")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print no line for denied destinations")
}

// open opens the log that --log names; nil if it names none.
func (o outputFlags) open(open func(name string) (*os.File, error)) (*os.File, error) {
	switch o.log {
	case "":
		return nil, nil
	case "-":
		return os.Stderr, nil
	}
	log, err := open(o.log)
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	return log, nil
}

// journal starts the journal of a run.
func (o outputFlags) journal(log *os.File, host *inforce.HostFiles, explain func(policy.Verdict) string) *journal.Journal {
	outliveReaders()
	return journal.New(journal.Config{Log: log, Max: int64(o.most), Stderr: os.Stderr, Quiet: o.quiet, Search: host.Resolv.Search(), Explain: explain})
}

// startService reads the host's configuration, and starts a journal that speaks with
// the service manager and its journal.
func (o outputFlags) startService(explain func(policy.Verdict) string) (host *inforce.HostFiles, j *journal.Journal, err error) {
	if host, err = inforce.ReadHostFiles(); err != nil {
		return host, nil, err
	}
	log, err := o.open(journal.OpenLog)
	if err != nil {
		return host, nil, err
	}
	c := journal.Config{Log: log, Max: int64(o.most), Stderr: os.Stderr, Quiet: o.quiet, Search: host.Resolv.Search(), Explain: explain, Notify: units.Notify}
	if log != nil && log != os.Stderr {
		c.Path = o.log
	}
	c.System, _ = sdjournal.StderrIsJournalStream()
	outliveReaders()
	return host, journal.New(c), nil
}

const (
	// servingTime bounds the wait for what is served when there is nobody to be served
	// any more, and reportTime that for who reads what is said.
	servingTime = 400 * time.Millisecond
	reportTime  = 800 * time.Millisecond
)

// closeService closes the journal of a service that ends with an error, or without one:
// then it fails if its log is not whole, or not known to be.
func closeService(j *journal.Journal, logs bool, err *error) {
	var failed error
	closed := supervise.Within(reportTime, func() { failed = j.Close() })
	if *err == nil && (!closed && logs || closed && failed != nil) {
		*err = &exitError{code: exitFailed} // it has been said, if anybody listens
	}
}
