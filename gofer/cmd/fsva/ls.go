// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// newLsCommand is `fsva ls`.
func newLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "list the volumes that are being served",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			// What could be listed is shown even if there is an error.
			all, err := supervisor.List(cmd.Context(), dirs)
			var werr error
			if asJSON {
				werr = writeJSON(cmd.OutOrStdout(), all)
			} else {
				werr = writeTable(cmd.OutOrStdout(), all)
			}
			if err == nil {
				err = werr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// maxCell bounds a table's cell in bytes.
const maxCell = 120

func writeTable(w io.Writer, all []supervisor.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tAPPLIANCE\tSTATE\tCOHERENCE\tISOLATION\tCLIENTS\tGUESTS\tSOURCE")
	for _, s := range all {
		clients, guests := "-", "-" // all, and those of them that are guests
		if s.Gofer != nil {
			clients = strconv.Itoa(s.Gofer.Clients)
			guests = strconv.Itoa(s.Gofer.Guests)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, orDash(s.Appliance),
			goferproto.Line(s.StateText(), maxCell), orDash(s.Coherence), orDash(s.Isolation), clients, guests,
			orDash(goferproto.Line(s.Source, maxCell)))
	}
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
