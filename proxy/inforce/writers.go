package inforce

import (
	"os"

	"appfw/netns/named"
	"appfw/policy/source"
)

// WritersIn are the programs in a network namespace, as far as is known whose they are.
func WritersIn(path string) source.Writers {
	if named.InOwner() {
		return source.SameNamespace()
	}
	file, err := os.Open(path)
	if err != nil {
		return source.NotRoot() // nor can it be served
	}
	defer file.Close()
	owner, err := named.OwnerOf(file)
	if err != nil {
		return source.NotRoot()
	}
	defer owner.Close()
	if owner.IsOurs() {
		return source.Writers{} // who put them there knows what they may write
	}
	return source.NotRoot()
}
