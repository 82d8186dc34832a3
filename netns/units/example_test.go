package units_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"appfw/netns/units"
)

// What would be written for a service of an image: to write it is another step.
func ExampleConfig_Proxy() {
	image, err := os.MkdirTemp("", "units-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(image)
	if err := os.WriteFile(filepath.Join(image, "backup.service"), []byte("[Service]\nExecStart=/usr/bin/backup\n"), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	c := units.Config{Directory: image, Program: "/usr/local/bin/appfw"}
	change, err := c.Proxy(context.Background(), "backup", units.Proxy{Options: units.Options{Policy: "/etc/appfw/backup.policy"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range change.Write {
		fmt.Println(strings.TrimPrefix(f.Path, image+"/"))
	}
	for line := range strings.Lines(change.Write[3].Text) {
		if strings.HasPrefix(line, "IPAddress") {
			fmt.Print(line)
		}
	}
	// Output:
	// appfw-check@.service
	// appfw-serve@backup.socket
	// appfw-serve@backup.service
	// backup.service.d/zz-appfw.conf
	// IPAddressAllow=
	// IPAddressDeny=
	// IPAddressDeny=any
	// IPAddressAllow=127.100.221.127
}
