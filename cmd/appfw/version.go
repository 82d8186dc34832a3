package main

import (
	"io"

	"github.com/spf13/cobra"

	"appfw/cmd/version"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, the commit, that of Go, and what the kernel can do",
		Example: "  appfw version",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := io.WriteString(c.OutOrStdout(), version.Long()); err != nil {
				return err
			}
			_ = examine(c.OutOrStdout()) // what fails is printed, and doctor's to judge
			return nil
		},
	}
}
