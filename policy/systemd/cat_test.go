package systemd

import "testing"

func TestSplitCat(t *testing.T) {
	out := "# Warning: x.service changed on disk\n# /lib/systemd/system/x.service\n[Service]\n# /etc/comment.d/a.conf\n\n# /etc/x.txt\nIPAddressDeny=any\n\n# /etc/systemd/system/x.service.d/a.conf\n[Service]\nIPAddressAllow=1.2.3.4\n"
	u, err := Read(SplitCat("x.service", out))
	if err != nil {
		t.Fatal(err)
	}
	got := u.deny[0].from.String() + " " + u.allow[0].from.String()
	if want := "IPAddressDeny=any (/lib/systemd/system/x.service:5) IPAddressAllow=1.2.3.4 (/etc/systemd/system/x.service.d/a.conf:2)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := Read(SplitCat("x", "# /etc/systemd/system/x.service\n")); err == nil {
		t.Error("no error of a masked unit")
	}
}
