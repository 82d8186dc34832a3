package policy

// Action is what is done with a flow. The strictest is the zero value: what nobody
// has decided on is denied.
type Action uint8

const (
	Deny Action = iota
	Ask         // somebody is asked; no rule says so yet
	Allow
)

var actionNames = [...]string{"deny", "ask", "allow"}

func (a Action) String() string { return actionNames[a] }

func action(allow bool) Action {
	if allow {
		return Allow
	}
	return Deny
}

// Needs is what has to be seen of an allowed flow before it may pass.
type Needs uint8

const (
	NeedsNothing  Needs = iota
	NeedsName           // each name that it shows (SNI, Host) is judged
	NeedsRequests       // each of its requests is judged; no rule says so yet
)

// Verdict is a decision with its reason. It is small, holds on to no more of the
// policy than the rule, and has words made only when they are asked for.
type Verdict struct {
	Action Action
	Needs  Needs // of an allowed flow

	// ByName tells of an allowed flow that it is allowed for its name alone. Exact
	// tells that the rule is for that very name, not for many by a wildcard.
	ByName, Exact bool
	// Base is what the names lie at and below that the wildcard is for by which a flow
	// is allowed for its name alone; empty if it is by no wildcard.
	Base Name

	// Via is how an allowed flow goes out: Direct, or the name of a chain in
	// Upstreams.
	Via string

	// Client tells that it is on a client of a published port, not on a destination.
	Client bool

	// Lacks is what is denied only because no rule allows it. Without an address
	// and a name: nothing.
	Lacks Target

	rule    *Rule  // that decided; nil if none did
	line    uint32 // of the entry of its list that did; 0: it has none
	reason  string // in place of what the rule says
	alias   Name   // that the name leads to, and by which it is denied
	special bool   // its name is allowed, but leads to a special address
}

// Allowed tells whether the flow may be.
func (v Verdict) Allowed() bool { return v.Action == Allow }

// Denial is a denial by no rule, for a reason in plain words.
func Denial(reason string) Verdict { return Verdict{reason: reason} }

// Because is the verdict with another reason.
func (v Verdict) Because(reason string) Verdict {
	v.reason, v.alias = reason, ""
	return v
}

// Rule is the rule that decided, nil if none did. An entry of a list is a rule of
// its own.
func (v Verdict) Rule() *Rule {
	if v.line == 0 {
		return v.rule
	}
	return &Rule{Action: v.rule.Action, Text: v.rule.Text, Pos: Pos{File: v.rule.list, Line: int(v.line)}}
}

// Reason says in plain words why.
func (v Verdict) Reason() string {
	reason := v.reason
	if r := v.Rule(); reason == "" && r != nil {
		does := " denies it"
		if r.Allows() {
			does = " allows it"
		}
		reason = "the rule " + r.String() + does
	}
	if v.alias != "" {
		reason = "its name leads to " + string(v.alias) + ", and " + reason
	}
	return reason
}

// Hint is a destination, or a Client, that a rule would have to allow for another
// verdict; "" if that would change nothing. How such a rule is written is the caller's
// to say.
func (v Verdict) Hint() string {
	to := v.Lacks
	switch {
	case to.Name == "" && !to.Addr.IsValid():
		return ""
	case v.Client: // the address is what it is
		return to.written()
	case to.Addr.IsValid() && Special(to.Addr) != Ordinary:
		to.Name = "" // no name leads there
	}
	return to.String()
}
