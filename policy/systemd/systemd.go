// Package systemd turns the address lists of a systemd unit (IPAddressAllow= and
// IPAddressDeny= of systemd.resource-control(5)) into a policy, and a policy into
// such lists. It is pure, text to text: it opens no file and asks no systemd; who
// needs that (systemctl cat) hands it the output.
//
// A unit becomes a policy that means the same:
//
//	u, err := systemd.Read([]systemd.File{{Name: "nginx.service", Content: content}})
//	text, notes, err := u.Policy(validUpstream)
//
// and of a policy, what systemd can keep becomes a drop-in:
//
//	text, notes, err := systemd.DropIn(p, false)
//
// The two languages differ: systemd knows no names, ports or protocols, filters
// both directions alike, and its allow wins over its deny, however narrow that is.
// What cannot be said is in the notes, and in comments of the text.
package systemd
