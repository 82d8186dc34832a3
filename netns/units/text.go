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

// noWayAround is what keeps a service of either kind from servers of the host.
const noWayAround = `# By these, others would resolve for it, or let it out.
InaccessiblePaths=-/run/systemd/resolve -/run/nscd -/run/docker.sock -/run/podman -/run/containerd
`

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
` + noWayAround

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
Requires={{.Name}}.service
After={{.Name}}.service

[Service]
NetworkNamespacePath=/run/netns/{{.Namespace}}
BindReadOnlyPaths={{.Files}}/resolv.conf:/etc/resolv.conf {{.Files}}/nsswitch.conf:/etc/nsswitch.conf -{{.Files}}/hosts:/etc/hosts
` + noWayAround + `CapabilityBoundingSet=~CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_NET_ADMIN
`
