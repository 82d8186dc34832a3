package journal_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"appfw/policy"
	"appfw/proxy/journal"
)

func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "log.json")
	file, err := journal.OpenLog(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	j := journal.New(journal.Config{Log: file, Path: path, Stderr: os.Stdout})
	denied := journal.Event{
		Flow: 1, Proto: "tcp", Dst: netip.MustParseAddrPort("192.0.2.1:443"), Name: "ads.example",
		Verdict: policy.Denial("no rule allows it"),
	}
	j.Flow(denied)
	j.Flow(denied) // people have been told
	if err := j.Close(); err != nil {
		fmt.Println(err)
	}
	log, err := os.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer log.Close()
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var rec journal.Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			fmt.Println(err)
		}
		fmt.Println(rec.Event, rec.Verdict, rec.Name, rec.Port, rec.Run == j.Run())
	}
	// Output:
	// appfw: denied tcp ads.example:443: no rule allows it
	// decision deny ads.example 443 true
	// decision deny ads.example 443 true
}
