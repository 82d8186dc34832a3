package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"appfw/policy"
)

func newSystemd() *cobra.Command {
	c := &cobra.Command{
		Use:   "systemd",
		Short: "Put services behind appfw; turn policies into settings of units, and back",
		Example: `  appfw systemd proxy backup.service --policy /etc/appfw/backup.policy
  appfw systemd netns nginx.service --policy /etc/appfw/nginx.policy
  appfw systemd import nginx.service > nginx.policy
  appfw systemd export --policy build.policy > /etc/systemd/system/build.service.d/net.conf`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSystemdProxy(), newSystemdNetns(), newSystemdExport(), newSystemdImport(), newDenied())
	return c
}

func newSystemdExport() *cobra.Command {
	var flags policyFlags
	var anyPort bool
	c := &cobra.Command{
		Use:   "export [flags]",
		Short: "Write the part of a policy that needs no names as a drop-in for a systemd unit",
		Long: `Write IPAddressAllow= and IPAddressDeny= lines (systemd.resource-control(5)) that
allow what a policy allows by address, for a drop-in of a service. systemd knows
no names, ports or protocols, and filters both directions alike: what cannot be
said is named on stderr and in comments. An address is allowed only if the policy
allows every flow to it, directly, and no rule keeps clients from there; with
--any-port, if it allows some. A deny within an allow divides that into the
prefixes around it, as systemd's allow wins over its deny.`,
		Example: `  appfw systemd export --policy build.policy > /etc/systemd/system/build.service.d/net.conf
  appfw systemd export --allow 10.0.0.0/24 --deny 10.0.0.13 --allow localhost
  appfw systemd export --any-port --allow 10.0.0.0/24:443`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := flags.load(hostConfig{})
			if err != nil {
				return err
			}
			text, notes, err := dropIn(l.rules, anyPort)
			if err != nil {
				return err
			}
			for _, n := range notes {
				fmt.Fprintln(c.ErrOrStderr(), "appfw: "+n)
			}
			fmt.Fprint(c.OutOrStdout(), text)
			return nil
		},
	}
	flags.register(c)
	c.Flags().BoolVar(&anyPort, "any-port", false, "open an address for all ports and protocols if the policy opens some there")
	return c
}

// maxPrefixes bounds a drop-in. systemd gives each to the kernel by a system call.
const maxPrefixes = 1 << 16

// dropIn writes the policy's addresses as a drop-in, and what it does not say.
func dropIn(p *policy.Policy, anyPort bool) (text string, notes []string, err error) {
	open, shut := p.Split(anyPort)
	if min(len(open), len(shut)) > maxPrefixes {
		return "", nil, fmt.Errorf("systemd would need %d prefixes for this policy; at most %d are written", min(len(open), len(shut)), maxPrefixes)
	}
	notes = dropInNotes(p, anyPort, open)
	var b strings.Builder
	b.WriteString("# Made by appfw systemd export. Lists of slices that the unit is in apply as well.\n")
	for _, n := range notes {
		b.WriteString("# " + n + "\n")
	}
	b.WriteString("\n[Service]\n# Lists that the unit has are reset.\nIPAddressAllow=\nIPAddressDeny=\n")
	if len(open) <= len(shut) {
		b.WriteString("IPAddressDeny=any\n")
		writePrefixes(&b, "IPAddressAllow=", open)
	} else {
		writePrefixes(&b, "IPAddressDeny=", shut)
	}
	return b.String(), notes, nil
}

// writePrefixes writes as many settings as it takes for lines of usual length.
func writePrefixes(b *strings.Builder, key string, list []netip.Prefix) {
	width := 0
	for _, p := range list {
		s := p.String()
		if p.IsSingleIP() {
			s = p.Addr().String()
		}
		switch {
		case width == 0:
			s = key + s
		case width+1+len(s) > 80:
			s, width = "\n"+key+s, -1
		default:
			s = " " + s
		}
		b.WriteString(s)
		width += len(s)
	}
	if width != 0 {
		b.WriteString("\n")
	}
}

// dropInNotes are what a drop-in with these addresses open says otherwise than the
// policy: what it opens beyond first.
func dropInNotes(p *policy.Policy, anyPort bool, open []netip.Prefix) []string {
	var wider, narrower []string
	more := func(format string, args ...any) {
		wider = append(wider, "wider: "+printable(fmt.Sprintf(format, args...)))
	}
	less := func(format string, args ...any) {
		narrower = append(narrower, "narrower: "+printable(fmt.Sprintf(format, args...)))
	}
	if len(open) > 0 {
		more("open addresses are so in both directions, for all protocols, and for ports 853, 5353 and 5355")
	}
	if slices.ContainsFunc(open, func(q netip.Prefix) bool { return q.Addr().Is6() && q.Bits() < 96 }) {
		more("an IPv6 address that embeds an IPv4 address as ISATAP does is open where its prefix is")
	}
	for _, r := range p.Rules() {
		switch {
		case r.Names() > 0 && r.Allows():
			less("%s: names need appfw systemd netns or proxy", r)
		case r.Names() > 0:
			more("%s: names need appfw systemd netns or proxy; their addresses are not shut", r)
		case r.Via() != "" && r.Via() != policy.Direct:
			less("%s: ways out need appfw systemd netns or proxy", r)
		case r.Scoped() && anyPort && r.Allows():
			more("%s: open for all ports and protocols", r)
		case r.Scoped() && anyPort:
			more("%s: not shut where anything else is open", r)
		case r.Scoped() && r.Allows():
			less("%s: systemd knows no ports or protocols (--any-port opens all there)", r)
		case r.Scoped():
			less("%s: systemd knows no ports or protocols; all are shut there (--any-port opens them)", r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Upstreams)) {
		for _, line := range p.Upstreams[name] {
			less("upstream (%s): what goes out by it stays shut, and so does itself unless a rule allows its address", line.Pos)
		}
	}
	if len(p.ClientRules()) > 0 {
		less("allow-from, deny-from: only addresses that are allowed in both directions are open")
	}
	for _, line := range slices.Concat(p.DNS, p.Hosts) {
		less("%s %s (%s): the resolver is the unit's own; its address has to be allowed", line.Word, line.Arg, line.Pos)
	}
	isOpen := func(s string) bool {
		return slices.ContainsFunc(open, func(q netip.Prefix) bool { return q.Overlaps(netip.MustParsePrefix(s)) })
	}
	if !isOpen("127.0.0.0/8") && !isOpen("::1/128") {
		less("the loopback is shut, as no rule names it; a unit has none of its own: allow localhost if it talks to itself or to a resolver there")
	}
	less("multicast, broadcast, 0.0.0.0/8, and IPv6 addresses that carry an IPv4 address (NAT64, 6to4, Teredo) are shut")
	return append(wider, narrower...)
}

func newSystemdImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import UNIT|FILE...",
		Short: "Write a policy that means what a systemd unit's IPAddressAllow= and IPAddressDeny= do",
		Long: `Write a policy that allows what IPAddressAllow= and IPAddressDeny= of a unit allow,
with the proxy of its Environment= as upstream. UNIT is asked of systemd
(systemctl cat); FILE is a unit file, a drop-in, or a directory of drop-ins
(UNIT.d), read in the order given. Lists of slices that the unit is in are not
followed; give their files to see them. What a policy says otherwise than systemd
is named on stderr and in comments.`,
		Example: `  appfw systemd import nginx.service > nginx.policy
  appfw systemd import ./game.service ./game.service.d
  appfw run --policy nginx.policy -- nginx -g 'daemon off;'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a unit, or its files: appfw systemd import nginx.service")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			files, err := unitFiles(args)
			if err != nil {
				return err
			}
			u, err := readUnit(files)
			if err != nil {
				return err
			}
			text, notes, err := u.policyText()
			if err != nil {
				return err
			}
			for _, n := range notes {
				fmt.Fprintln(c.ErrOrStderr(), "appfw: "+n)
			}
			fmt.Fprint(c.OutOrStdout(), text)
			return nil
		},
	}
}

// unitFiles reads the files that the arguments name.
func unitFiles(args []string) (files []unitFile, err error) {
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case err != nil && !strings.Contains(arg, "/"):
			if len(args) > 1 {
				return nil, fmt.Errorf("%s: there is no such file; a unit is given alone", printable(arg))
			}
			return catUnit(arg)
		case err != nil:
			return nil, err
		}
		names := []string{arg}
		if info.IsDir() {
			entries, err := os.ReadDir(arg) // sorted, as systemd reads them
			if err != nil {
				return nil, err
			}
			names = nil
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), ".conf") {
					names = append(names, filepath.Join(arg, e.Name()))
				}
			}
			if names == nil {
				return nil, fmt.Errorf("%s: no drop-ins (*.conf) in it", printable(arg))
			}
		}
		for _, name := range names {
			content, err := readFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, unitFile{name, content})
		}
	}
	return files, nil
}

// catUnit has systemd find the files of a unit.
func catUnit(unit string) ([]unitFile, error) {
	c := exec.Command("systemctl", "--no-pager", "cat", "--", unit)
	c.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	out, err := c.Output()
	exit, isExit := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: there is no such file, and no systemctl to ask for a unit of that name", printable(unit))
	case isExit:
		return nil, fmt.Errorf("%s: there is no such file, and no such unit: systemctl says: %s", printable(unit), strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return nil, err
	}
	return splitCat(unit, string(out)), nil
}

// catHeader is the line that systemctl cat puts before each file.
var catHeader = compiled(`(?m)^# (/.*)\n`)

// splitCat divides what systemctl cat prints into the files. Of what looks like the
// head of another one, but may be a comment, it takes what is a drop-in's.
func splitCat(unit, out string) (files []unitFile) {
	start, name := 0, "systemctl cat "+unit
	for _, m := range catHeader().FindAllStringSubmatchIndex(out, -1) {
		path := out[m[2]:m[3]]
		first := start == 0 && !strings.Contains(out[:m[0]], "[") // warnings may stand before
		later := strings.HasSuffix(path, ".conf") && strings.HasSuffix(filepath.Dir(path), ".d") && strings.HasSuffix(out[:m[0]], "\n\n")
		if !first && !later {
			continue
		}
		if m[0] > 0 {
			files = append(files, unitFile{name, []byte(out[start:m[0]])})
		}
		start, name = m[1], path
	}
	return append(files, unitFile{name, []byte(out[start:])})
}
