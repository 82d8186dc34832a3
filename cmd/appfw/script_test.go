package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command line is specified by the scripts in testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("APPFW", program)
			return nil
		},
	})
}
