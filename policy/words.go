package policy

// Word is what a line of a policy begins with, and what the flag is named that makes
// such a line.
type Word struct {
	Name  string // "allow"
	Arg   string // what follows, as help names it: "DEST"
	Usage string // what it says, as help puts it

	rule   bool // via=NAME may follow the argument
	secret bool // a password may be in the argument, which then no message shows
	apply  func(b *builder, l Line) error
}

// Words are all that there are.
func Words() []Word {
	return []Word{
		{
			Name: "allow", Arg: "DEST", rule: true,
			Usage: "allow a destination: HOST[:PORTS][/PROTO], or @FILE, a list of them; and then via=UPSTREAM",
			apply: func(b *builder, l Line) error { return b.rule(l, Allow, narrow) },
		},
		{
			Name: "allow-suffix", Arg: "DEST", rule: true,
			Usage: "allow that lets a wildcard be over a public suffix: *.com, *.github.io",
			apply: func(b *builder, l Line) error { return b.rule(l, Allow, broad) },
		},
		{
			Name: "deny", Arg: "DEST", rule: true,
			Usage: "deny a destination; an allow that is narrower than a deny overrides it",
			apply: func(b *builder, l Line) error { return b.rule(l, Deny, broad) },
		},
		{
			Name: "default", Arg: "allow|deny",
			Usage: "what no rule matches (without it: denied, if anything is allowed)",
			apply: (*builder).setDefault,
		},
		{
			Name: "policy", Arg: "FILE",
			Usage: "read rules from FILE, a line for each: allow DEST, deny DEST and the others of these flags that make a policy, without dashes",
			apply: (*builder).include,
		},
		{
			Name: "hosts", Arg: "FILE",
			Usage: "answer the names in FILE (hosts(5)) by the addresses there, before asking anybody",
			apply: func(b *builder, l Line) error { return b.settings.hosts(l) },
		},
		{
			Name: "dns", Arg: "RESOLVER",
			Usage: "ask RESOLVER, not the host's: [ZONE=] and ADDR[:PORT], tls://HOST[:PORT][#NAME] or https://HOST/PATH",
			apply: func(b *builder, l Line) error { b.settings.DNS = append(b.settings.DNS, l); return nil },
		},
		{
			Name: "dns-budget", Arg: "N",
			Usage: "how many questions an hour may leave by each wildcard rule (1000; 0: any number)",
			apply: func(b *builder, l Line) error { return b.settings.budget(l) },
		},
		{
			Name: "upstream", Arg: "UPSTREAM", secret: true,
			Usage: "go out through it: socks5h://HOST:PORT, socks4a://…, http://…, https://… or tor; several make a chain, and URL | URL stand in for each other; NAME= before it is for via=NAME",
			apply: func(b *builder, l Line) error { return b.settings.upstream(l) },
		},
		{
			Name: "isolate", Arg: "WHAT",
			Usage: "what shares circuits of an upstream Tor: a run, a destination, or a process",
			apply: func(b *builder, l Line) error { return b.settings.isolate(l) },
		},
		{
			Name: "synthetic", Arg: "PREFIX",
			Usage: "where addresses are from that stand for names resolved by an upstream (198.18.0.0/15)",
			apply: func(b *builder, l Line) error { return b.settings.synthetic(l) },
		},
		{
			Name: "allow-unix", Arg: "PATH",
			Usage: "let the app see a socket that is hidden from it otherwise",
			apply: func(b *builder, l Line) error { return b.settings.show(l) },
		},
		{
			Name: "allow-from", Arg: "CLIENT",
			Usage: "who may come to published ports, and nobody else: ADDRESS or PREFIX[:HOSTPORTS][/PROTO], or @FILE",
			apply: func(b *builder, l Line) error { return b.from.rule(l, Allow, broad) },
		},
		{
			Name: "deny-from", Arg: "CLIENT",
			Usage: "who may not come to published ports",
			apply: func(b *builder, l Line) error { return b.from.rule(l, Deny, broad) },
		},
	}
}

// wordTable is Words, to look them up in.
type wordTable []Word

// find finds a word; the error is of one that there is not, written at pos.
func (t wordTable) find(name string, pos Pos) (*Word, error) {
	for i := range t {
		if t[i].Name == name {
			return &t[i], nil
		}
	}
	return nil, &SyntaxError{Pos: pos, Word: name, Msg: "unknown word", Hint: t.nearest(name)}
}

// nearest is the word that another was probably meant to be; "" if there is none.
func (t wordTable) nearest(name string) string {
	names := make([]string, len(t))
	for i, w := range t {
		names[i] = w.Name
	}
	return Nearest(name, names)
}
