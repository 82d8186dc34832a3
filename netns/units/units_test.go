package units

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fake is a systemd that does nothing but remember.
type fake struct {
	told    []string
	failing error             // of whatever it is told
	shown   map[string]string // what it has in force for units
	leaks   error             // of KeepsAddresses
	known   bool              // all units are
}

func (f *fake) Knows(context.Context, string) bool { return f.known }

func (f *fake) Show(_ context.Context, unit string, _ ...string) (string, error) {
	return f.shown[unit], nil
}

func (f *fake) Tell(_ context.Context, words ...string) error {
	f.told = append(f.told, strings.Join(words, " "))
	return f.failing
}

func (f *fake) KeepsAddresses(_ context.Context, program string) error {
	f.told = append(f.told, "keeps "+program)
	return f.leaks
}

// image is a directory of units in which there are a.service and b@.service.
type image struct {
	Config
	fake
	t *testing.T
}

func filesDir(namespace string) string { return "/run/files/" + namespace }

func newImage(t *testing.T) *image {
	i := &image{t: t}
	i.Config = Config{Directory: t.TempDir(), Program: "/usr/local/bin/appfw", FilesDir: filesDir, Systemd: &i.fake}
	i.write("a.service", "[Service]\n")
	i.write("b@.service", "[Service]\n")
	return i
}

func (i *image) write(name, text string) {
	i.t.Helper()
	if err := writeWhole(filepath.Join(i.Directory, name), text); err != nil {
		i.t.Fatal(err)
	}
}

// apply applies a change, and says what it did, in the order of that.
func (i *image) apply(c *Change, err error) string {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
	i.told = nil
	done, err := c.Apply(i.t.Context())
	if err != nil {
		i.t.Fatal(err)
	}
	relative := func(paths []string) (names []string) {
		for _, p := range paths {
			names = append(names, strings.TrimPrefix(p, i.Directory+"/"))
		}
		return names
	}
	return fmt.Sprintf("wrote %v removed %v told %q", relative(done.Wrote), relative(done.Removed), i.told)
}

// files are those in the directory, with their texts.
func (i *image) files() map[string]string {
	i.t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(i.Directory, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			all[strings.TrimPrefix(path, i.Directory+"/")] = string(b)
		}
		return err
	})
	if err != nil {
		i.t.Fatal(err)
	}
	return all
}

func TestChanges(t *testing.T) {
	i := newImage(t)
	before := i.files()
	ctx := t.Context()
	steps := []struct {
		change func() (*Change, error)
		want   string
	}{
		{func() (*Change, error) { return i.Proxy(ctx, "a", Proxy{Options: Options{Policy: "/etc/a"}}) },
			`wrote [appfw-check@.service appfw-serve@a.socket appfw-serve@a.service a.service.d/zz-appfw.conf] removed [] told ["keeps /usr/local/bin/appfw" "daemon-reload"]`},
		// From one way to the other, nothing of the first is left.
		{func() (*Change, error) {
			return i.Namespace(ctx, "a", Namespace{Options: Options{Policy: "/etc/a"}, Name: "shared", Publish: []string{"80:80"}})
		},
			`wrote [appfw-check@.service appfw-netns@shared.service appfw-netns@shared.target a.service.d/zz-appfw.conf] removed [appfw-serve@a.socket appfw-serve@a.service] ` +
				`told ["daemon-reload" "stop appfw-serve@a.socket" "stop appfw-serve@a.service" "daemon-reload"]`},
		// Two share a namespace; it stays until both have left.
		{func() (*Change, error) { return i.Namespace(ctx, "b@x", Namespace{Name: "shared"}) },
			`wrote [appfw-check@.service b@x.service.d/zz-appfw.conf] removed [] told ["daemon-reload"]`},
		{func() (*Change, error) { return i.Undo(t.Context(), "a") },
			`wrote [] removed [a.service.d/zz-appfw.conf] told ["daemon-reload"]`},
		{func() (*Change, error) { return i.Undo(t.Context(), "b@x") },
			`wrote [] removed [b@x.service.d/zz-appfw.conf appfw-netns@shared.target appfw-netns@shared.service appfw-check@.service] ` +
				`told ["daemon-reload" "stop appfw-netns@shared.target" "stop appfw-netns@shared.service" "daemon-reload"]`},
	}
	for n, s := range steps {
		if got := i.apply(s.change()); got != s.want {
			t.Errorf("step %d:\n got %s\nwant %s", n+1, got, s.want)
		}
	}
	if after := i.files(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("left is %q", after)
	}
}

// Nothing is written that would not be whole, or over what somebody else wrote.
func TestApplyErrors(t *testing.T) {
	i := newImage(t)
	i.write("a.service.d/zz-appfw.conf", "# theirs\n")
	before := i.files()
	change, err := i.Proxy(t.Context(), "a", Proxy{Options: Options{Policy: "/etc/a"}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		done, err := change.Apply(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || len(done.Wrote)+len(done.Removed) > 0 {
			t.Errorf("did %v, error %v; want %q", done, err, want)
		}
		if after := i.files(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("there is %q", after)
		}
	}
	check("zz-appfw.conf is there, and not written by appfw; it is left as it is")
	if _, err := i.Undo(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "is not written by appfw; it is left as it is") {
		t.Error(err)
	}
	i.leaks = errors.New("it leaks")
	check("it leaks")

	// The last file cannot be written: the first are as before.
	i = newImage(t)
	i.write("appfw-serve@a.socket", mark+"of before\n")
	i.write("a.service.d", "no directory\n")
	before = i.files()
	if change, err = i.Proxy(t.Context(), "a", Proxy{Options: Options{Policy: "/etc/a"}}); err != nil {
		t.Fatal(err)
	}
	check("not a directory")
}

// That systemd was not told is no error: what is written is.
func TestNotTold(t *testing.T) {
	i := newImage(t)
	i.failing = errors.New("it is busy")
	change, err := i.Proxy(t.Context(), "a", Proxy{Options: Options{Policy: "/etc/a"}})
	if err != nil {
		t.Fatal(err)
	}
	done, err := change.Apply(t.Context())
	if err != nil || len(done.Wrote) != 4 || !slices.Equal(done.Notes, []string{"it is busy"}) {
		t.Errorf("did %v, error %v", done, err)
	}
}

func TestErrors(t *testing.T) {
	i := newImage(t)
	ctx := t.Context()
	i.Load = func(policy string) (Policy, error) {
		if strings.HasSuffix(policy, "bad") {
			return Policy{}, errors.New("bad policy")
		}
		return Policy{Files: []string{policy}, Admits: func(netip.Addr, uint16) bool { return !strings.HasSuffix(policy, "closed") }}, nil
	}
	if _, err := i.Namespace(ctx, "a", Namespace{Options: Options{Policy: "/etc/a"}, Name: "shared"}); err != nil {
		t.Fatal(err)
	}
	i.write("appfw-netns@theirs.service", mark+"netns other.service --remove\n[Service]\nExecStart=/usr/local/bin/appfw netns theirs --policy /etc/other\n")
	proxy := func(service string, p Proxy) error { _, err := i.Proxy(ctx, service, p); return err }
	netns := func(service string, n Namespace) error { _, err := i.Namespace(ctx, service, n); return err }
	undo := func(service string) error { _, err := i.Undo(t.Context(), service); return err }
	for _, c := range []struct {
		err  error
		want string
		is   error // may be nil
	}{
		{proxy("../a", Proxy{Options: Options{Policy: "/etc/a"}}), `"../a.service" is not the name of a service`, nil},
		{proxy("a.socket", Proxy{Options: Options{Policy: "/etc/a"}}), `"a.socket" is not the name of a service`, nil},
		{netns("appfw-netns@a", Namespace{Options: Options{Policy: "/etc/a"}}), `appfw-netns@a.service is appfw's own`, nil},
		{netns("nosuch", Namespace{Options: Options{Policy: "/etc/a"}}), "there is no unit nosuch.service", nil},
		{undo("nosuch"), "there is no unit nosuch.service", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/a", Keep: []string{"CAP_CHOWN"}}}), "keep CAP_CHOWN: it is nothing that is taken from services; see --dry-run", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/a", Log: "/var/log/nginx/log"}}), "log /var/log/nginx/log: the proxy runs as a user of its own, who has a directory of that name in /var/log, as /var/log/appfw-backup/log.json", nil},
		{netns("a", Namespace{Options: Options{Policy: "/etc/a", Log: "log"}}), "log log: units name files by an absolute path", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/closed"}}), "the policy lets the service itself not come to its proxy (allow-from localhost:1080 would)", nil},
		{proxy("a", Proxy{Options: Options{Policy: "a.policy"}}), "policy a.policy: units of another machine name it by its path there", nil},
		{proxy("a", Proxy{}), "which policy is not said", ErrNoPolicy},
		{netns("a", Namespace{}), "which policy is not said", ErrNoPolicy},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/bad"}}), "bad policy", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/a"}, Listen: "127.1.1.1"}), "listen 127.1.1.1: it is not ADDRESS:PORT, as 127.100.90.50:1080", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/a"}, Listen: "10.0.0.1:1080"}), "listen 10.0.0.1:1080: others than this host could use it", nil},
		{proxy("a", Proxy{Options: Options{Policy: "/etc/a"}, Listen: "[::1]:1080"}), "listen [::1]:1080: the service would reach all that listens at this address; give the proxy one of its own, as 127.100.90.50:1080", nil},
		{netns("a", Namespace{Options: Options{Policy: "/etc/a"}, Name: ".."}), `".." is no name for a namespace of units`, ErrName},
		{netns("a", Namespace{Options: Options{Policy: "/etc/a"}, Name: "theirs"}), i.Directory + "/appfw-netns@theirs.service serves this namespace already, with another policy or other ports", ErrServed},
	} {
		if c.err == nil || c.err.Error() != c.want || c.is != nil && !errors.Is(c.err, c.is) {
			t.Errorf("error %v, want %s", c.err, c.want)
		}
	}
	i.Program = "appfw"
	_, err := i.Proxy(ctx, "a", Proxy{Options: Options{Policy: "/etc/a"}})
	if option, ok := errors.AsType[*OptionError](err); !ok || option.Error() != "program appfw: units start programs by an absolute path" {
		t.Error(err)
	}
}

// A change for this machine by which units would start what they do not see can be
// shown, and not be applied.
func TestUnseen(t *testing.T) {
	f := &fake{known: true}
	c := Config{Program: "/home/me/appfw", FilesDir: filesDir, Systemd: f}
	change, err := c.Namespace(t.Context(), "appfw-test-nosuch", Namespace{Options: Options{Policy: "/etc/a"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"units cannot start /home/me/appfw, as they have no /home; shown is /usr/local/bin/appfw, where make install puts it"}; !slices.Equal(change.Notes, want) {
		t.Errorf("notes are %q", change.Notes)
	}
	if want := "\nExecStart=/usr/local/bin/appfw netns appfw-test-nosuch --policy /etc/a\n"; !strings.Contains(change.Write[1].Text, want) {
		t.Errorf("no %q in %s", want, change.Write[1].Text)
	}
	_, err = change.Apply(t.Context())
	if unseen, ok := errors.AsType[*UnseenError](err); !ok || unseen.Directory != "/home" {
		t.Error(err)
	}
	if len(f.told) > 0 {
		t.Errorf("systemd was told %q", f.told)
	}
}
