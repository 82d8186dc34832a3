// Package manual is appfw's manual. Its topics are Markdown files, which are shown by
// appfw help, set as man pages beside one for each command, and are pages of the web as
// they are:
//
//	manual.Register(root) // appfw help TOPIC
//	err := manual.Write(root, "/usr/local/share")
package manual

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed topics/*.md
var files embed.FS

// Topic is a page on something that several commands have in common.
type Topic struct {
	Name   string // "policy"
	Title  string // "write a policy"
	blocks []block
}

// names are those of the topics, in the order in which help lists them.
var names = []string{
	"policy", "names", "upstreams", "services", "containers", "ports", "log",
	"security", "performance", "troubleshooting", "internals",
}

// Topics reads all topics. An error is a mistake in a file of this package.
func Topics() ([]Topic, error) {
	var list []Topic
	for _, name := range names {
		text, err := files.ReadFile("topics/" + name + ".md")
		if err != nil {
			return nil, err
		}
		blocks, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("topics/%s.md: %w", name, err)
		}
		if len(blocks) == 0 || blocks[0].kind != heading {
			return nil, fmt.Errorf("topics/%s.md: it has no title", name)
		}
		list = append(list, Topic{Name: name, Title: blocks[0].text, blocks: blocks[1:]})
	}
	return list, nil
}

// Find finds a topic by its name.
func Find(name string) (Topic, bool) {
	list, _ := Topics()
	for _, t := range list {
		if t.Name == name {
			return t, true
		}
	}
	return Topic{}, false
}

// Text is the topic for a terminal, at most 79 columns wide but for what has to be copied.
func (t Topic) Text() string {
	return plain(append([]block{{kind: heading, text: t.Name}, {text: "**" + t.Title + "**"}}, t.blocks...))
}

// Example is what a topic shows to be run, or a file that it shows.
type Example struct {
	Kind string // "console": commands after "$ ", and what they print; "policy": a file
	Text string
}

// Examples are those of the topic, in its order.
func (t Topic) Examples() (list []Example) {
	for _, b := range t.blocks {
		if b.kind == code && b.info != "" {
			list = append(list, Example{Kind: b.info, Text: b.text})
		}
	}
	return list
}

// page is the man page of the topic: of policies in section 5, of others in 7.
func (t Topic) page() page {
	p := page{name: "appfw-" + t.Name, section: 7, title: strings.ToLower(t.Title[:1]) + t.Title[1:], blocks: t.blocks, also: []string{"appfw(1)"}}
	if t.Name == "policy" {
		p.name, p.section = "appfw.policy", 5
		p.blocks = append(p.blocks[:len(p.blocks):len(p.blocks)], words()...)
	}
	return p
}
