package policy

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "500000": 500000, "64K": 64 << 10, "64k": 64 << 10, "10M": 10 << 20, "1G": 1 << 30, "2T": 2 << 40, "8388607T": 8388607 << 40,
		"": -1, "K": -1, "-1": -1, "+1": -1, "1.5G": -1, "1GB": -1, "1 G": -1, "0x10": -1, "8388608T": -1, "9223372036854775808": -1, "18446744073709551616": -1, "1_0": -1, "\x1b[2JG": -1,
	} {
		got, err := ParseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
		if again, err := ParseSize(want.String()); want >= 0 && (again != want || err != nil) {
			t.Errorf("%d is written %s: %d, %v", want, want, again, err)
		}
	}
}
