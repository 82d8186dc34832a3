package upstream

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"
)

// What a proxy has a say in is a line of moderate length.
func TestPlain(t *testing.T) {
	err := fmt.Errorf("certificate is for \x1b[31m%s\n", strings.Repeat("ü.example, ", 1000))
	text := Plain(&net.OpError{Op: "read", Err: err})
	if len(text) > maxErrorText+len("…") || strings.ContainsAny(text, "\x1b\n") || !utf8.ValidString(text) || !strings.HasPrefix(text, `certificate is for \x1b[31mü.example, ü`) {
		t.Errorf("%q", text)
	}
}
