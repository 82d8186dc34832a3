package main

import "appfw/policy"

// explain is the reason of a verdict, and which flag would make a denial another.
func explain(v policy.Verdict) string {
	hint := v.Hint()
	if v.Allowed() || hint == "" {
		return v.Reason()
	}
	flag := "--allow "
	if v.Client {
		flag = "--allow-from "
	}
	return v.Reason() + " (to allow: " + flag + hint + ")"
}
