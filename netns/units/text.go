package units

import (
	"strings"
	"text/template"
)

// mark is how all that is written begins. What does not is not touched.
const mark = "# Written by appfw systemd. To undo it: appfw systemd "

// render fills in templates, and puts the mark before each.
func render(values map[string]any, files []File) ([]File, error) {
	for i, f := range files {
		var b strings.Builder
		t, err := template.New("unit").Parse(mark + "{{.Undo}}\n" + f.Text)
		if err == nil {
			err = t.Execute(&b, values)
		}
		if err != nil {
			return nil, err
		}
		files[i].Text = b.String()
	}
	return files, nil
}

// quoteWords writes words as a line of a unit has them (systemd.service(5), "Command
// lines"): each is one word, without specifiers and variables in it.
func quoteWords(words ...string) string {
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

// quotePath writes a path, or two of them with a colon between, as settings have paths.
func quotePath(path string) string {
	path = strings.ReplaceAll(path, `%`, `%%`)
	if strings.ContainsAny(path, " \t\"'\\") {
		path = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
	}
	return path
}

// keepsSocket is the line of a drop-in that says that a socket which systemd passes to the
// service is meant to lead past appfw.
func keepsSocket(name string) string { return "# --keep " + name + "\n" }

// keepsSockets are such lines of all that is kept.
func keepsSockets(keep []string) (lines string) {
	for _, name := range keep {
		if strings.HasSuffix(name, ".socket") {
			lines += keepsSocket(name)
		}
	}
	return lines
}

// bounds are how much of the host's memory appfw's units may take, and how many threads:
// three times what all that programs can do to it at once makes it take (300 MB), with
// room for lists of a million names (25 MB, several times that while they are read); and
// more than ten times the threads that it has. More is a mistake of appfw's, which so ends
// alone. Drop-ins may say otherwise.
const bounds = `MemoryMax=1G
MemorySwapMax=0
TasksMax=256
`

// checkName is the name of the template of the units that check whether what keeps a
// service in is in force; their instances are named for services.
const checkName = "appfw-check@"

// checkService runs before each start of a service. It does not wait for what services
// wait for, as some of these are waited for themselves.
const checkService = `[Unit]
Description=What appfw has written for %i.service holds
DefaultDependencies=no
RequiresMountsFor={{.Mounts}}
# As often as the service starts.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={{.Program}} systemd check %i.service
TimeoutStartSec=60
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateNetwork=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
` + bounds

// The proxy of a service: its socket, by which systemd starts it, and itself.
const serveSocket = `[Unit]
Description=Proxy of appfw for {{.Service}}

[Socket]
ListenStream={{.At}}
`

const serveService = `[Unit]
Description=Proxy of appfw for {{.Service}}
Documentation=man:systemd.resource-control(5)
Requires={{.Name}}.socket
After={{.Name}}.socket network.target

[Service]
Type=notify
ExecStart={{.Start}}
# A policy with a mistake in it is not taken, and the reload fails.
{{.Reload}}Restart=on-failure
WatchdogSec=30
{{.Secrets}}` + bounds + `DynamicUser=yes
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
# The kernel is asked what it calls an address (AF_NETLINK).
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
`

// proxyDropIn lets a service reach its proxy and nothing else, and tells it of that.
const proxyDropIn = `[Unit]
Requires={{.Name}}.socket {{.Check}}%N.service
After={{.Name}}.socket {{.Check}}%N.service

[Service]
IPAddressAllow=
IPAddressDeny=
IPAddressDeny=any
IPAddressAllow={{.Addr}}
Environment=ALL_PROXY=http://{{.At}} all_proxy=http://{{.At}}
Environment=HTTP_PROXY=http://{{.At}} http_proxy=http://{{.At}}
Environment=HTTPS_PROXY=http://{{.At}} https_proxy=http://{{.At}}
Environment=NO_PROXY= no_proxy=
{{.Wall}}`

// What serves a namespace, and what keeps it served.
const netnsService = `[Unit]
Description=Network namespace {{.Namespace}} of appfw
Documentation=man:ip-netns(8)
After=network.target
Wants={{.Name}}.target
StartLimitIntervalSec=0

[Service]
# It makes mounts that others are to see, so it has no view of its own.
Type=notify
ExecStart={{.Start}}
# A policy with a mistake in it is not taken, and the reload fails.
ExecReload={{.Program}} systemd ` + PolicyCommand + ` {{.Policy}}
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=30
` + bounds + `CapabilityBoundingSet=CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_DAC_READ_SEARCH
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
`

const netnsTarget = `[Unit]
Description=Network namespace {{.Namespace}} of appfw stays served
Requires={{.Name}}.service
After={{.Name}}.service
# It starts appfw again after a crash. Restart= would restart what runs in the
# namespace, too, which so notices no more than a pause.
Upholds={{.Name}}.service
`

// netnsDropIn lets a service run in a namespace.
const netnsDropIn = `[Unit]
Requires={{.Name}}.service {{.Check}}%N.service
After={{.Name}}.service {{.Check}}%N.service

[Service]
NetworkNamespacePath=/run/netns/{{.Namespace}}
BindReadOnlyPaths={{.Files}}/resolv.conf:/etc/resolv.conf {{.Files}}/nsswitch.conf:/etc/nsswitch.conf -{{.Files}}/hosts:/etc/hosts
{{.Resolver}}{{.Wall}}`

// socketDropIn lets what systemd opens for a service be in its namespace. The host's
// sockets.target would wait for it, and it for what waits for that.
const socketDropIn = `[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
Requires={{.Name}}.service
After={{.Name}}.service

[Socket]
NetworkNamespacePath=/run/netns/{{.Namespace}}
FreeBind=yes
`
