package policy

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Explain is the reason of a verdict, and what would make a denial another: flags of
// appfw's, or a line of the policy's file, if lines name one. env is the environment in
// which programs find a proxy; listens tells whether the program does at a port, and may be
// nil.
func Explain(v Verdict, lines []Line, env []string, listens func(Proto, uint16) bool) string {
	to := v.Hint()
	if v.Allowed() || to == "" {
		return v.Reason()
	}
	if listens != nil && v.Lacks.Addr.IsLoopback() && listens(v.Lacks.Proto, v.Lacks.Port) {
		return v.Reason() + ", and the program itself listens at that port at another address only"
	}
	word, file := "allow", ""
	if v.Client {
		word = "allow-from"
	}
	for _, l := range lines {
		if l.Word == "policy" {
			file = l.Arg
		}
	}
	switch proxy := proxyOf(env, v.Lacks); {
	case proxy != "" && !v.Client:
		return v.Reason() + " (to go out by this proxy of the environment: --proxy-env --upstream " + proxy + ")"
	case file != "":
		return v.Reason() + " (to allow: " + word + " " + to + " in " + file + ")"
	}
	return v.Reason() + " (to allow: --" + word + " " + to + ")"
}

// proxyOf is the URL, without its password, of a proxy that the environment has programs
// use (http_proxy and the like), if the target is that proxy: by its host, or, where a
// flow to it shows the name of the destination, by a port that is no usual one of others.
// It is "" if the target is none.
func proxyOf(env []string, to Target) string {
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "all_proxy":
		default:
			continue
		}
		if !strings.Contains(value, "://") {
			value = "http://" + value
		}
		u, err := url.Parse(value)
		if err != nil || u.Hostname() == "" {
			continue
		}
		addr, _ := netip.ParseAddr(u.Hostname())
		host, _ := ParseName(u.Hostname())
		port := u.Port() == strconv.Itoa(int(to.Port))
		usual := to.Port == 80 || to.Port == 443
		switch {
		case to.Addr.IsValid() && to.Addr == addr && port, to.Name != "" && to.Name == host && (port || to.Port == 0), port && !usual:
			u.Path = ""
			return u.Redacted()
		}
	}
	return ""
}
