package policy

// Rule is one line of a policy that allows or denies destinations.
type Rule struct {
	Action Action
	Text   string // as it was written: "allow example.com:443"
	Pos    Pos

	dest  destination
	names int    // how many names and wildcards it speaks of
	via   string // how what it allows goes out: Direct, Default, or a chain's name
	list  string // the file of its list; "" if it has none
}

// Allows tells whether what the rule matches may be.
func (r *Rule) Allows() bool { return r.Action == Allow }

func (r *Rule) String() string { return r.Text + " (" + r.Pos.String() + ")" }

// Names is how many names and wildcards the rule speaks of.
func (r *Rule) Names() int { return r.names }

// Scoped tells whether the rule is for some ports or protocols only.
func (r *Rule) Scoped() bool { return !r.dest.scope.contains(&everyFlow) }

// Via is what the rule has after via=; "" if it has none.
func (r *Rule) Via() string { return r.via }
