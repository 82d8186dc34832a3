package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. It is a flag.Value, too.
type Size int64

// ParseSize parses a number of bytes: 64K, 10M, 1G, 2T (of 1024), or the number alone.
func ParseSize(text string) (Size, error) {
	number, shift := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGT", text[n-1]&^0x20); i >= 0 {
			number, shift = text[:n-1], 10*(i+1)
		}
	}
	size, err := strconv.ParseUint(number, 10, 63)
	if err != nil || size > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%s is no size; it is a number of bytes, as 500000, 64K, 10M or 1G", Printable(strconv.Quote(text), 40))
	}
	return Size(size) << shift, nil
}

// String is the size as [ParseSize] reads it, as short as it can be.
func (s Size) String() string {
	unit := ""
	for _, u := range []string{"K", "M", "G", "T"} {
		if s == 0 || s%1024 != 0 {
			break
		}
		s, unit = s/1024, u
	}
	return strconv.FormatInt(int64(s), 10) + unit
}

// Set parses a size.
func (s *Size) Set(text string) (err error) {
	*s, err = ParseSize(text)
	return err
}

// Type is how help names one.
func (Size) Type() string { return "SIZE" }
