package policy

import (
	"testing"
	"time"
)

func TestSuffixDate(t *testing.T) {
	if _, err := time.Parse(time.DateOnly, SuffixDate()); err != nil {
		t.Error(err)
	}
}
