package units

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Units for an image name what is in the image, and nothing of the machine that makes it.
func TestImage(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc/systemd/system")
	policy := filepath.Join(root, "etc/appfw/a.policy")
	for path, text := range map[string]string{filepath.Join(dir, "a.service"): "[Service]\n", policy: "allow example.com\n"} {
		if err := writeWhole(path, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(policy, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	var read string
	c := Config{Directory: dir, Systemd: &fake{}, FilesDir: filesDir, Load: func(policy string) (Policy, error) {
		read = policy
		return Policy{Files: []string{policy}}, nil
	}}
	for _, given := range []string{policy, "etc/appfw/a.policy", "/etc/appfw/a.policy"} {
		change, err := c.Namespace(t.Context(), "a", Namespace{Options: Options{Policy: given}})
		if err != nil {
			t.Fatal(err)
		}
		if read != policy {
			t.Errorf("%s: %s was read", given, read)
		}
		for _, f := range change.Write {
			if strings.Contains(f.Text, root) {
				t.Errorf("%s: %s speaks of %s:\n%s", given, f.Path, root, f.Text)
			}
		}
		if want := "\nExecStart=/usr/local/bin/appfw netns a --policy /etc/appfw/a.policy\n"; !strings.Contains(change.Write[1].Text, want) {
			t.Errorf("%s: no %q in\n%s", given, want, change.Write[1].Text)
		}
	}
}

func TestIsTemplate(t *testing.T) {
	for unit, want := range map[string]bool{"a.service": false, "a@.service": true, "a@b.service": false, "a@b@.service": false, "appfw-check@.service": true} {
		if got := isTemplate(unit); got != want {
			t.Errorf("%s: %v", unit, got)
		}
	}
}

// What a unit filters is told by what systemctl show prints of it.
func TestShut(t *testing.T) {
	for is, want := range map[string]bool{
		"": false, "~": false, "AF_UNIX AF_INET": true, "AF_UNIX AF_VSOCK": false, "~AF_VSOCK": false, "~AF_PACKET AF_VSOCK AF_X25": true,
	} {
		f := facts{properties: properties{"RestrictAddressFamilies": {is}}}
		if got := f.shut("RestrictAddressFamilies", []string{"AF_VSOCK", "AF_PACKET"}); got != want {
			t.Errorf("%s: %v", is, got)
		}
	}
}

// Commands with all privileges are found by their flags, whatever their words are.
func TestPrivileged(t *testing.T) {
	command := func(words, flags string) string {
		return "{ path=/bin/a ; argv[]=/bin/a " + words + " ; flags=" + flags + " ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
	}
	f := facts{properties: properties{
		"ExecStartEx":     {command("flags=privileged ; flags=privileged ;", "no-setuid")},
		"ExecStartPreEx":  {command("b", ""), command("c", "ignore-failure privileged")},
		"ExecStopEx":      {command("d", "privileged")},
		"ExecConditionEx": {command("e", "ignore-failure")},
	}}
	if got := strings.Join(f.privileged(), " "); got != "ExecStartPre ExecStop" {
		t.Error(got)
	}
}
