// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"fsva/gofer/doctor"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// newDoctorCommand is `fsva doctor`.
func newDoctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check what this machine has for FSVA, and say what to do",
		Long: `Looks at the kernel, cgroups, runsc, the configuration of docker and containerd,
and fsva's directories. Each line begins with ok, warn (something will not work,
which may not matter here) or fail. It changes nothing. The exit status is 1 if a
line says fail.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			// Without one, the finding says so.
			runsc, _ := supervisor.FindRunsc()
			library, err := supervisor.Library()
			if err != nil {
				return err
			}
			findings := doctor.Examine(cmd.Context(), doctor.Machine{
				RunDir: dirs.Run, StateDir: dirs.State, Runsc: runsc, GVisor: gvisorVersion(),
				Library: library,
			})
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), findings)
			} else {
				err = writeFindings(cmd.OutOrStdout(), findings)
			}
			if err == nil && !doctor.Healthy(findings) {
				err = silentError{1}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeFindings(w io.Writer, findings []doctor.Finding) error {
	for _, f := range findings {
		line := fmt.Sprintf("%-4s  %s: %s", f.Level, f.Check, f.Found)
		if f.Advice != "" {
			line += "; " + f.Advice
		}
		if _, err := fmt.Fprintln(w, goferproto.Line(line, 1024)); err != nil {
			return err
		}
	}
	return nil
}
