package manual

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"appfw/policy"
)

//go:embed examples/*.policy
var examples embed.FS

// Write writes what belongs into /usr/share beside the program, below a directory: man
// pages, completions, example policies and Vim's syntax of policies.
func Write(root *cobra.Command, dir string) error {
	list, err := pages(root)
	if err != nil {
		return err
	}
	t := tree{dir: dir}
	for _, p := range list {
		file := fmt.Sprintf("%s.%d", p.name, p.section)
		man := fmt.Sprintf("man/man%d", p.section)
		t.write(man+"/"+file, p.roff())
		for _, a := range p.aliases {
			t.link(file, fmt.Sprintf("%s/%s.%d", man, a, p.section))
		}
	}
	t.completion("bash-completion/completions/appfw", func(b *strings.Builder) error { return root.GenBashCompletionV2(b, true) })
	t.completion("zsh/site-functions/_appfw", func(b *strings.Builder) error { return root.GenZshCompletion(b) })
	t.completion("fish/vendor_completions.d/appfw.fish", func(b *strings.Builder) error { return root.GenFishCompletion(b, true) })
	t.write("vim/vimfiles/syntax/appfw.vim", vimSyntax())
	t.write("vim/vimfiles/ftdetect/appfw.vim", "autocmd BufRead,BufNewFile *.policy setfiletype appfw\n")
	names, err := fs.Glob(examples, "examples/*.policy")
	t.note(err)
	for _, name := range names {
		text, err := examples.ReadFile(name)
		t.note(err)
		t.write("doc/appfw/"+name, string(text))
	}
	return t.err
}

// tree is a directory that is written.
type tree struct {
	dir string
	err error // what has gone wrong, all of it
}

func (t *tree) note(err error) { t.err = errors.Join(t.err, err) }

// write writes a file that all may read, whatever the umask.
func (t *tree) write(name, text string) {
	path := filepath.Join(t.dir, name)
	t.note(os.MkdirAll(filepath.Dir(path), 0o755))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.note(err)
		return
	}
	t.note(os.Chmod(path, 0o644))
}

// link makes a symbolic link, in place of one that is there.
func (t *tree) link(to, name string) {
	path := filepath.Join(t.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.note(err)
		return
	}
	t.note(os.Symlink(to, path))
}

func (t *tree) completion(name string, generate func(*strings.Builder) error) {
	var b strings.Builder
	t.note(generate(&b))
	t.write(name, b.String())
}

// vimSyntax is how Vim shows the words of policies.
func vimSyntax() string {
	var plain, rules []string
	for _, w := range policy.Words() {
		if strings.HasPrefix(w.Name, "allow") || strings.HasPrefix(w.Name, "deny") {
			rules = append(rules, w.Name)
			continue
		}
		plain = append(plain, w.Name)
	}
	// The longest first: of alternatives, Vim takes the first that matches.
	longest := func(a, b string) int { return len(b) - len(a) }
	slices.SortStableFunc(rules, longest)
	slices.SortStableFunc(plain, longest)
	line := func(group string, words []string) string {
		return fmt.Sprintf("syntax match %s /^\\s*\\(%s\\)\\ze\\(\\s\\|$\\)/\n", group, strings.Join(words, `\|`))
	}
	return "\" Policies of appfw: appfw.policy(5).\nif exists(\"b:current_syntax\")\n  finish\nendif\n" +
		line("appfwRule", rules) + line("appfwWord", plain) +
		"syntax match appfwComment /\\(^\\|\\s\\)#.*$/\n" +
		"syntax match appfwVia /\\<via=\\S\\+/\n" +
		"highlight default link appfwRule Statement\nhighlight default link appfwWord Keyword\n" +
		"highlight default link appfwComment Comment\nhighlight default link appfwVia Type\n" +
		"setlocal commentstring=#\\ %s\nlet b:current_syntax = \"appfw\"\n"
}
