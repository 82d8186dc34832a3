// Package source reads policies that are in files, and watches those files while a
// policy is in force.
//
// It is for programs that are judged by a policy as it is now: when a file of it has
// changed and stays so for a moment, it is read anew; unless those who are judged
// could have changed it themselves. It does not say what follows from a policy: the
// resolvers and proxies that lines name (policy.Settings) are made by whoever loads
// it, and so is the decision whether what was read becomes the policy in force.
//
//	s := source.Source{Lines: lines, Writers: source.SameUser()}
//	current, err := s.Load()
//	...
//	s.Watch(ctx, current, asked, func() *source.Loaded {
//		if next, err := s.Load(); err == nil && source.CheckReload(current.Policy, next.Policy) == nil {
//			current = next
//		}
//		return current
//	}, func(text string) { log.Print(text) })
package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"appfw/policy"
)

// Source is what a policy is read from.
type Source struct {
	// Lines are those of the command line; they may name files ("policy FILE").
	Lines []policy.Line
	// Writers are those who are judged by the policy. A file that they could change
	// is read once, and not watched. The zero value is nobody.
	Writers Writers
}

// Loaded is a policy with the files that it was read from.
type Loaded struct {
	Policy *policy.Policy

	files  []string
	stamps string // of the files, each from before it was opened
}

// Load reads the policy. Mistakes in it are [*policy.SyntaxError]s.
func (s *Source) Load() (*Loaded, error) {
	l := new(Loaded)
	var err error
	l.Policy, err = policy.Compile(policy.Config{Lines: s.Lines, Open: func(name string) (io.ReadCloser, error) { return l.Open(name) }})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Open opens a file that belongs to the policy though it has no rules in it, as hosts
// files do. It is one of its files from then on.
func (l *Loaded) Open(name string) (*os.File, error) {
	l.files = append(l.files, name)
	l.stamps += stamps(name)
	return os.Open(name)
}

// Files are the names of all that was opened, in that order. There are none if the
// policy is all on the command line.
func (l *Loaded) Files() []string { return slices.Clone(l.files) }

// stamps tells states of files apart.
func stamps(files ...string) string {
	var b strings.Builder
	for _, name := range files {
		var st unix.Stat_t
		err := unix.Stat(name, &st)
		fmt.Fprintln(&b, name, err, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
	}
	return b.String()
}

// CheckReload is an error if the policy next, read in place of old, opens by omission
// what old does not: of files that are empty by now, or lack a half, nobody means
// that.
func CheckReload(old, next *policy.Policy) error {
	switch {
	case next.OpenByDefault() && !old.OpenByDefault():
		return errors.New("without an allow, all would be allowed that no rule denies; write default allow if that is meant")
	case next.OpenToAll() && !old.OpenToAll():
		return errors.New("without an allow-from, all could come to published ports that no rule denies; write allow-from any if that is meant")
	}
	return nil
}
