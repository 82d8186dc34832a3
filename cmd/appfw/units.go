package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// unitFlags are the flags of what puts a systemd unit behind appfw.
type unitFlags struct {
	policy    string
	directory string
	program   string
	dryRun    bool
	remove    bool

	files []string // that the policy is made of

	listen  string   // of proxy
	name    string   // of netns
	publish []string // of netns
}

func (f *unitFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.policy, "policy", "", "the policy, a `FILE`")
	c.Flags().StringVar(&f.directory, "directory", unitDirectory, "where units are written, a `DIR`")
	c.Flags().StringVar(&f.program, "program", "", "what units start as appfw, a `PATH` (without: this program)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be written, and write nothing")
	c.Flags().BoolVar(&f.remove, "remove", false, "undo it: remove what was written for UNIT")
}

func oneUnit(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give one unit: %s nginx.service --policy /etc/appfw/nginx.policy", c.CommandPath())
	}
	return nil
}

func newSystemdProxy() *cobra.Command {
	var flags unitFlags
	c := &cobra.Command{
		Use:   "proxy UNIT --policy FILE",
		Short: "Let a service reach only a proxy of appfw's",
		Long: `Have systemd let UNIT reach nothing but the loopback address of a proxy that
appfw serves under the policy (IPAddressDeny=any), and tell UNIT of it by the
usual variables (ALL_PROXY and others). It writes a drop-in for UNIT, and
appfw-serve@UNIT.socket and .service, which systemd starts when UNIT connects.
UNIT itself is not restarted.`,
		Example: `  appfw systemd proxy backup.service --policy /etc/appfw/backup.policy
  appfw systemd proxy backup.service --remove`,
		Args:                  oneUnit,
		DisableFlagsInUseLine: true,
		RunE:                  func(_ *cobra.Command, args []string) error { return flags.apply(args[0], flags.proxyUnits) },
	}
	flags.register(c)
	c.Flags().StringVar(&flags.listen, "listen", "", "where the proxy listens, an `ADDRESS:PORT` of the loopback (without: 127.100.x.y:1080, by the name of UNIT)")
	return c
}

func newSystemdNetns() *cobra.Command {
	var flags unitFlags
	c := &cobra.Command{
		Use:   "netns UNIT --policy FILE",
		Short: "Let a service run in a network namespace of appfw's",
		Long: `Have UNIT run in a network namespace that appfw serves under the policy; it need
not know. It writes a drop-in for UNIT, and appfw-netns@NAME.service with a target
that starts it again. Several units may share a namespace (--name). UNIT itself is
not restarted.`,
		Example: `  appfw systemd netns nginx.service --policy /etc/appfw/nginx.policy --publish 0.0.0.0:80:80
  appfw systemd netns nginx.service --remove`,
		Args:                  oneUnit,
		DisableFlagsInUseLine: true,
		RunE:                  func(_ *cobra.Command, args []string) error { return flags.apply(args[0], flags.netnsUnits) },
	}
	flags.register(c)
	c.Flags().StringVar(&flags.name, "name", "", "the `NAME` of the namespace (without: that of UNIT)")
	c.Flags().StringArrayVar(&flags.publish, "publish", nil, "let clients of the host's `PORT` come to the namespace: [ADDR:]HOSTPORT:PORT[/udp]")
	return c
}

// outputFile is a file of systemd's.
type outputFile struct{ path, text string }

// unitMark is the first line of all that is written. What has it not is not touched.
const unitMark = "# Written by appfw systemd. To undo it: appfw systemd "

// dropInName is the file name of drop-ins.
const dropInName = "50-appfw.conf"

// unitName are the names of services that are sensible here (systemd.unit(5)).
var unitName = compiled(`^[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]{0,200}\.service$`)

// compiled is an expression that takes no time where it is not used: most runs start
// a program.
func compiled(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// apply writes, prints or removes the files for a unit.
func (f *unitFlags) apply(unit string, files func(unit string) ([]outputFile, error)) error {
	if !strings.Contains(unit, ".") || !strings.HasSuffix(unit, ".service") && !strings.HasSuffix(unit, ".socket") && !strings.HasSuffix(unit, ".timer") {
		unit += ".service"
	}
	if !unitName().MatchString(unit) || strings.HasSuffix(strings.TrimSuffix(unit, ".service"), "@") {
		return fmt.Errorf("%.80q is not the name of a service", unit)
	}
	if f.remove {
		return f.undo(unit)
	}
	if err := f.check(unit); err != nil {
		return err
	}
	list, err := files(unit)
	if err != nil {
		return err
	}
	if f.dryRun {
		for _, x := range list {
			fmt.Printf("# %s\n%s\n", x.path, x.text)
		}
		return nil
	}
	before := make(map[string][]byte) // of files that there are already
	for _, x := range list {          // all of them, before any is written
		old, err := os.ReadFile(x.path)
		if err == nil && !bytes.HasPrefix(old, []byte(unitMark)) {
			return fmt.Errorf("%s is there, and not written by appfw; it is left as it is", x.path)
		}
		if err == nil {
			before[x.path] = old
		}
	}
	for i, x := range list {
		if err := writeWhole(x.path, x.text); err != nil {
			for _, done := range list[:i] { // as it was
				if old, there := before[done.path]; there {
					_ = writeWhole(done.path, string(old))
				} else {
					_ = os.Remove(done.path)
				}
			}
			return err
		}
	}
	for _, x := range list {
		fmt.Printf("wrote %s\n", x.path)
	}
	reloadManager()
	// It may have been put behind appfw in another way before.
	dropIn := filepath.Join(f.directory, unit+".d", dropInName)
	obsolete := slices.DeleteFunc(f.unitsOf(dropIn, before[dropIn]), func(path string) bool {
		return bytes.Contains(newest(list, dropIn), []byte(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))))
	})
	if err := removeUnits(obsolete); err != nil {
		return err
	}
	fmt.Printf("%s is behind appfw from its next start on: systemctl restart %s\n", unit, unit)
	return nil
}

// newest is the text that a file gets.
func newest(list []outputFile, path string) []byte {
	i := slices.IndexFunc(list, func(x outputFile) bool { return x.path == path })
	return []byte(list[i].text)
}

// check refuses what could not work.
func (f *unitFlags) check(unit string) error {
	if !unitExists(unit, f.directory) {
		return fmt.Errorf("there is no unit %s", unit)
	}
	if f.policy == "" {
		return nil // it joins others
	}
	path, err := filepath.Abs(f.policy)
	if err != nil {
		return err
	}
	f.policy = path
	host, err := readHost()
	if err != nil {
		return err
	}
	flags := policyFlags{}
	flags.add("policy", f.policy)
	l, err := flags.load(host)
	if err != nil {
		return err
	}
	f.files = l.files
	return nil
}

// unitDirs are where units are, beside those that are written (systemd.unit(5)).
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// unitExists tells whether there is a unit, or the template that it is of.
func unitExists(unit, directory string) bool {
	names := []string{unit}
	if i := strings.IndexByte(unit, '@'); i >= 0 {
		names = append(names, unit[:i+1]+".service")
	}
	for _, dir := range append([]string{directory}, unitDirs...) {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return true
			}
		}
	}
	return exec.Command("systemctl", "cat", "--", unit).Run() == nil
}

// writeWhole writes a file that is never seen half written.
func writeWhole(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".appfw-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// managed tells whether systemd runs (sd_booted(3)).
func managed() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// manager tells systemd something, if it runs.
func manager(command ...string) {
	if !managed() {
		return
	}
	if out, err := exec.Command("systemctl", command...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "appfw: systemctl %s: %v: %s\n", strings.Join(command, " "), err, printable(strings.TrimSpace(string(out))))
	}
}

// reloadManager has systemd read its units anew.
func reloadManager() { manager("daemon-reload") }

// newDenied is a command that tells by its exit code whether systemd keeps it from
// sending.
func newDenied() *cobra.Command {
	return &cobra.Command{Use: deniedCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err == nil {
			_, err = conn.Write([]byte("?"))
			conn.Close()
		}
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		return errors.New("a datagram was sent")
	}}
}

const deniedCommand = "denied"

// keepsAddresses is an error if systemd runs and does not keep what IPAddressDeny=
// says: without BPF, or in a container, it does not, and tells nobody.
func keepsAddresses(program string) error {
	if !managed() {
		return nil
	}
	out, err := exec.Command("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=IPAddressDeny=any", "--", program, "systemd", deniedCommand).CombinedOutput()
	if err != nil {
		return fmt.Errorf("this systemd does not keep IPAddressDeny=any, so that the service would reach everything (%v: %s)", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// instance is the name of a unit as the instance of another.
func instance(unit string) string { return strings.TrimSuffix(unit, ".service") }

// appfwUnits are the units that a drop-in speaks of.
var appfwUnits = compiled(`\bappfw-(?:serve|netns)@[A-Za-z0-9:_.\\@-]+\.(?:service|socket)`)

// undo removes the drop-in of a unit, and the units that no other drop-in speaks of.
func (f *unitFlags) undo(unit string) error {
	dropIn := filepath.Join(f.directory, unit+".d", dropInName)
	text, err := os.ReadFile(dropIn)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("nothing is written for %s: there is no %s", unit, dropIn)
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(text, []byte(unitMark)) {
		return fmt.Errorf("%s is not written by appfw; it is left as it is", dropIn)
	}
	units := f.unitsOf(dropIn, text)
	if f.dryRun {
		for _, path := range append([]string{dropIn}, units...) {
			fmt.Printf("would remove %s\n", path)
		}
		return nil
	}
	if err := os.Remove(dropIn); err != nil {
		return err
	}
	fmt.Printf("removed %s\n", dropIn)
	_ = os.Remove(filepath.Dir(dropIn)) // if there is nothing else in it
	reloadManager()                     // from here on, the unit does not depend on the others
	return removeUnits(units)
}

// unitKinds are the kinds of appfw's units, in the order in which they are stopped.
var unitKinds = []string{".socket", ".target", ".service"}

// unitsOf are the files of appfw's units that a drop-in with the text speaks of, and
// no other one.
func (f *unitFlags) unitsOf(dropIn string, text []byte) (files []string) {
	used := make(map[string]bool)
	others, _ := filepath.Glob(filepath.Join(f.directory, "*.d", dropInName)) // fails for bad patterns only
	for _, other := range others {
		b, err := os.ReadFile(other)
		if other != dropIn && err == nil {
			for _, name := range appfwUnits().FindAllString(string(b), -1) {
				used[instance(strings.TrimSuffix(name, ".socket"))] = true
			}
		}
	}
	for _, name := range appfwUnits().FindAllString(string(text), -1) {
		base := instance(strings.TrimSuffix(name, ".socket"))
		for _, kind := range unitKinds {
			path := filepath.Join(f.directory, base+kind)
			b, err := os.ReadFile(path)
			if err == nil && bytes.HasPrefix(b, []byte(unitMark)) && !used[base] && !slices.Contains(files, path) {
				files = append(files, path)
			}
		}
	}
	return files
}

// removeUnits stops units and removes their files.
func removeUnits(files []string) error {
	for _, path := range files {
		manager("stop", filepath.Base(path))
	}
	for _, path := range files {
		if err := os.Remove(path); err != nil {
			return err
		}
		fmt.Printf("removed %s\n", path)
	}
	if len(files) > 0 {
		reloadManager()
	}
	return nil
}

// executable is appfw as a unit starts it.
func (f *unitFlags) executable() (path string, err error) {
	if path = f.program; path == "" {
		if path, err = os.Executable(); err != nil {
			return "", err
		}
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("--program %s: units start programs by an absolute path", path)
	}
	if dir := unseen(path); dir != "" && f.here() {
		if f.dryRun {
			const installed = "/usr/local/bin/appfw"
			fmt.Fprintf(os.Stderr, "appfw: note: units cannot start %s, as they have no %s; shown is %s, where make install puts it\n", printable(path), dir, installed)
			return installed, nil
		}
		return "", fmt.Errorf("units cannot start %s, as they have no %s; install it (sudo make install) or say what they are to start (--program)", path, dir)
	}
	if info, err := os.Stat(path); f.here() && (err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0) {
		return "", fmt.Errorf("%s is not a program", path)
	}
	return path, nil
}

// unseen is the directory of a path that services do not see (ProtectHome=,
// PrivateTmp=); "" if there is none.
func unseen(path string) string {
	for _, dir := range []string{"/home", "/root", "/tmp", "/var/tmp", "/run/user"} {
		if strings.HasPrefix(path, dir+"/") {
			return dir
		}
	}
	return ""
}

// unitDirectory is where units of the administrator are.
const unitDirectory = "/etc/systemd/system"

// here tells whether the units are for this machine, and not for an image of
// another.
func (f *unitFlags) here() bool { return f.directory == unitDirectory }

// unitWords quotes words for a line of a unit (systemd.service(5), "Command lines").
func unitWords(words ...string) string {
	var quoted []string
	for _, w := range words {
		w = strings.NewReplacer(`%`, `%%`, `$`, `$$`).Replace(w)
		if w == "" || strings.ContainsAny(w, " \t\r\n\"'\\;") {
			w = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`).Replace(w) + `"`
		}
		quoted = append(quoted, w)
	}
	return strings.Join(quoted, " ")
}

// proxyAddress is where the proxy of a unit listens unless that is said: an address
// of the loopback that no other unit's has, most likely.
func proxyAddress(unit string) netip.AddrPort {
	sum := sha256.Sum256([]byte(unit))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 100, sum[0], sum[1]%254 + 1}), 1080)
}

var errNoPolicy = errors.New("which policy is not said (--policy FILE)")

// proxyUnits are the files by which a unit reaches only a proxy.
func (f *unitFlags) proxyUnits(unit string) ([]outputFile, error) {
	if f.policy == "" {
		return nil, errNoPolicy
	}
	at := proxyAddress(unit)
	if f.listen != "" {
		var err error
		if at, err = netip.ParseAddrPort(f.listen); err != nil || at.Port() == 0 {
			return nil, fmt.Errorf("--listen %s: it is not ADDRESS:PORT, as 127.100.90.50:1080", f.listen)
		}
		if !at.Addr().IsLoopback() {
			return nil, fmt.Errorf("--listen %s: others than this host could use it", f.listen)
		}
		if a := at.Addr(); a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback() {
			return nil, fmt.Errorf("--listen %s: the service would reach all that listens at this address; give the proxy one of its own, as 127.100.90.50:1080", f.listen)
		}
	}
	for _, name := range f.files {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o004 == 0 {
			return nil, fmt.Errorf("the proxy runs as a user of its own, who may not read %s (chmod o+r %s)", name, name)
		}
		if dir := unseen(name); dir != "" && f.here() {
			return nil, fmt.Errorf("the proxy does not see %s, as it has no %s; keep it in /etc/appfw", name, dir)
		}
	}
	program, err := f.executable()
	if err != nil {
		return nil, err
	}
	if !f.dryRun {
		if err := keepsAddresses(program); err != nil {
			return nil, err
		}
	}
	name := "appfw-serve@" + instance(unit)
	return f.render(map[string]any{
		"Undo": "proxy " + unit + " --remove", "Unit": unit, "Name": name, "At": at, "Addr": at.Addr(),
		"Start": unitWords(program, "serve", "--policy", f.policy),
	}, []outputFile{
		{filepath.Join(f.directory, name+".socket"), `
[Unit]
Description=Proxy of appfw for {{.Unit}}

[Socket]
ListenStream={{.At}}
`}, {filepath.Join(f.directory, name+".service"), `
[Unit]
Description=Proxy of appfw for {{.Unit}}
Documentation=man:systemd.resource-control(5)
Requires={{.Name}}.socket
After={{.Name}}.socket network.target

[Service]
Type=notify
ExecStart={{.Start}}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
WatchdogSec=30
DynamicUser=yes
UMask=0077
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
`}, {filepath.Join(f.directory, unit+".d", dropInName), `
[Unit]
BindsTo={{.Name}}.socket
After={{.Name}}.socket

[Service]
IPAddressAllow=
IPAddressDeny=
IPAddressDeny=any
IPAddressAllow={{.Addr}}
Environment=ALL_PROXY=socks5h://{{.At}} all_proxy=socks5h://{{.At}}
Environment=HTTP_PROXY=http://{{.At}} http_proxy=http://{{.At}}
Environment=HTTPS_PROXY=http://{{.At}} https_proxy=http://{{.At}}
Environment=NO_PROXY= no_proxy=
# By these, others would resolve for it, or let it out.
InaccessiblePaths=-/run/systemd/resolve -/run/nscd -/run/docker.sock -/run/podman -/run/containerd
`},
	})
}

// netnsUnits are the files by which a unit runs in a namespace.
func (f *unitFlags) netnsUnits(unit string) ([]outputFile, error) {
	namespace := f.name
	if namespace == "" {
		namespace = instance(unit)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,100}$`).MatchString(namespace) || strings.Trim(namespace, ".") == "" {
		return nil, fmt.Errorf("%.80q is no name for a namespace of units (--name)", namespace)
	}
	published, err := parsePublishes(f.publish)
	if err != nil {
		return nil, err
	}
	for _, p := range published {
		if p.name != "" {
			return nil, fmt.Errorf("--publish %s: a socket is not passed to this unit; give a port", p.flag)
		}
	}
	program, err := f.executable()
	if err != nil {
		return nil, err
	}
	words := []string{program, "netns", namespace, "--policy", f.policy}
	for _, p := range f.publish {
		words = append(words, "--publish", p)
	}
	name := "appfw-netns@" + namespace
	service := filepath.Join(f.directory, name+".service")
	there, err := os.ReadFile(service)
	joins := err == nil && !bytes.HasPrefix(there, []byte(unitMark+"netns "+unit+" ")) // what another unit's is
	switch same := bytes.Contains(there, []byte("\nExecStart="+unitWords(words...)+"\n")); {
	case f.policy == "" && (err != nil || len(f.publish) > 0):
		return nil, errNoPolicy
	case joins && f.policy != "" && !same:
		return nil, fmt.Errorf("%s serves this namespace already, with another policy or other ports: to join it, say neither --policy nor --publish", service)
	}
	files, err := f.render(map[string]any{
		"Undo": "netns " + unit + " --remove", "Unit": unit, "Name": name, "Namespace": namespace, "Start": unitWords(words...), "Config": filepath.Join(configDir, namespace),
	}, []outputFile{
		{service, `
[Unit]
Description=Network namespace {{.Namespace}} of appfw
Documentation=man:ip-netns(8)
After=network.target
Wants={{.Name}}.target
StartLimitIntervalSec=0

[Service]
# It makes mounts that others are to see, so it has no view of its own.
Type=notify
ExecStart={{.Start}}
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=30
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_DAC_READ_SEARCH
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=net
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service @mount setns
`}, {filepath.Join(f.directory, name+".target"), `
[Unit]
Description=Network namespace {{.Namespace}} of appfw stays served
Requires={{.Name}}.service
After={{.Name}}.service
# It starts appfw again after a crash. Restart= would restart what runs in the
# namespace, too, which so notices no more than a pause.
Upholds={{.Name}}.service
`}, {filepath.Join(f.directory, unit+".d", dropInName), `
[Unit]
Requires={{.Name}}.service
After={{.Name}}.service

[Service]
NetworkNamespacePath=/run/netns/{{.Namespace}}
BindReadOnlyPaths={{.Config}}/resolv.conf:/etc/resolv.conf {{.Config}}/nsswitch.conf:/etc/nsswitch.conf -{{.Config}}/hosts:/etc/hosts
# By these, others would resolve for it, or let it out.
InaccessiblePaths=-/run/systemd/resolve -/run/nscd -/run/docker.sock -/run/podman -/run/containerd
CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_NET_ADMIN
`},
	})
	if err == nil && (joins || f.policy == "") {
		files = files[len(files)-1:] // the service is as it was
	}
	return files, err
}

// render fills in templates, and puts the mark before each.
func (f *unitFlags) render(values map[string]any, files []outputFile) ([]outputFile, error) {
	for i, x := range files {
		var b strings.Builder
		b.WriteString(unitMark + values["Undo"].(string) + "\n")
		t, err := template.New("unit").Parse(strings.TrimPrefix(x.text, "\n"))
		if err == nil {
			err = t.Execute(&b, values)
		}
		if err != nil {
			return nil, err
		}
		files[i].text = b.String()
	}
	return files, nil
}
