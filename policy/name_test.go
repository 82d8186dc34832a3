package policy

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
	for _, tt := range []struct{ in, want, err string }{
		{in: "example.com", want: "example.com"},
		{in: "EXAMPLE.Com.", want: "example.com"},
		{in: "db", want: "db"},
		{in: "_dmarc._tcp.example.com", want: "_dmarc._tcp.example.com"},
		{in: "1.example.com", want: "1.example.com"},
		{in: "3com", want: "3com"},
		{in: "r3---sn.example.com", want: "r3---sn.example.com"},
		{in: "xn--bcher-kva.example", want: "xn--bcher-kva.example"},
		{in: "_25._tcp.XN--BCHER-KVA.example", want: "_25._tcp.xn--bcher-kva.example"},
		{in: label63 + ".com", want: label63 + ".com"},
		{in: name253 + ".", want: name253},

		{in: "", err: "empty name"},
		{in: ".", err: "empty name"},
		{in: "a..b", err: "empty label"},
		{in: ".a", err: "empty label"},
		{in: "a..", err: "empty label"},
		{in: "-a.foo-.com", want: "-a.foo-.com"},
		{in: "-.--._-_.com", want: "-.--._-_.com"},
		{in: "-a", err: `the last label, "-a", starts or ends with a hyphen`},
		{in: "a.com-", err: `the last label, "com-", starts or ends with a hyphen`},
		{in: "10.0.0.1-", err: `the last label, "1-", starts or ends with a hyphen`},
		{in: label63 + "a.com", err: "label is longer than 63 characters"},
		{in: name253 + "b", err: "name is longer than 253 characters"},
		{in: "a b", err: `a name cannot have the character ' '`},
		{in: "a\x00.com", err: `a name cannot have the character '\x00'`},
		{in: "a.com:80", err: `a name cannot have the character ':'`},
		{in: "*.a.com", err: `a name cannot have the character '*'`},
		{in: "127.0.0.1", err: `"127.0.0.1" is a number, not a name`},
		{in: "127.1", err: `"127.1" is a number, not a name`},
		{in: "2130706433", err: `"2130706433" is a number, not a name`},
		{in: "0x7f.1", err: `"0x7f.1" is a number, not a name`},
		{in: "0X7F000001", err: `"0X7F000001" is a number, not a name`},
		{in: "a.0x", err: `"a.0x" is a number, not a name`},
		{in: "a.com.017.", err: `"a.com.017." is a number, not a name`},
		{in: "bücher.example", err: `write "bücher.example" as "xn--bcher-kva.example"`},
		{in: "Example。com", err: `write "Example。com" as "example.com"`},
		{in: "\u212aelvin.example", err: `write "Kelvin.example" as "kelvin.example"`},
		{in: "\xff.example", err: `"\xff.example" is not a valid internationalized name`},
		{in: "xn--a.example", err: `"xn--a" is not a valid internationalized label`},
		{in: "１２７.０.０.１", err: `"127.0.0.1" is a number, not a name`},
	} {
		got, err := ParseName(tt.in)
		if string(got) != tt.want || errText(err) != tt.err {
			t.Errorf("ParseName(%q) = %q, %q; want %q, %q", tt.in, got, errText(err), tt.want, tt.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
