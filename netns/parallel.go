package netns

import (
	"errors"
	"sync"
)

// Parallel runs the functions at the same time and joins their errors: making a
// namespace waits for the kernel, mostly.
func Parallel(fns ...func() error) error {
	errs := make([]error, len(fns))
	var all sync.WaitGroup
	for i, fn := range fns {
		all.Go(func() { errs[i] = fn() })
	}
	all.Wait()
	return errors.Join(errs...)
}
