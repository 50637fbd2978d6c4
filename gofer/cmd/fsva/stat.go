// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// newStatCommand is `fsva stat`.
func newStatCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stat NAME",
		Short: "show what is known of a volume",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			s, err := supervisor.Stat(cmd.Context(), dirs, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return writeStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func writeStatus(w io.Writer, s supervisor.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s:\t%s\n", name, goferproto.Line(fmt.Sprintf(format, args...), 1024))
	}
	row("name", "%s", s.Name)
	row("appliance", "%s", s.Appliance)
	row("source", "%s", orDash(s.Source))
	row("state", "%s", s.StateText())
	row("directory", "%s", s.Directory)
	row("coherence", "%s", s.Coherence)
	row("isolation", "%s", s.Isolation)
	var modes []string
	for _, m := range []struct {
		set  bool
		name string
	}{{s.ReadOnly, "read-only"}, {s.StrictFsync, "strict fsync"}, {s.HostNetwork, "host network"}} {
		if m.set {
			modes = append(modes, m.name)
		}
	}
	row("modes", "%s", orDash(strings.Join(modes, ", ")))
	row("started", "%s", s.Started.Format(time.RFC3339))
	row("processes", "supervisor %d, gofer %s, FS server %s", s.PID, pidOrDash(s.GoferPID), pidOrDash(s.ServerPID))
	if r := s.Ready; r != nil && r.FuseMinor != 0 {
		row("FUSE", "7.%d, writes to %d bytes, reads to %d bytes", r.FuseMinor, r.MaxWrite, r.MaxRead)
	}
	if s.GoferError != "" {
		row("gofer", "%s", s.GoferError)
	}
	if g := s.Gofer; g != nil {
		row("FUSE requests", "%d, %d in flight, %d notifications, %d bad replies", g.Requests, g.InFlight, g.Notifies, g.BadReplies)
		row("FUSE data", "%d bytes read, %d bytes written", g.BytesRead, g.BytesWrite)
		if c := g.Cache; c != nil {
			row("cache", "%d of %d MiB in %d files, %d MiB of it in clients' hands (%d files)",
				c.Resident>>20, c.Limit>>20, c.Files, c.Donated>>20, c.DonatedFiles)
			row("cache use", "%d hits, %d misses, %d fills, %d evictions", c.Hits, c.Misses, c.Fills, c.Evictions)
		}
		row("clients", "%d, %d attached since the start, %d refused", g.Clients, g.Attaches, g.Refused)
		for _, c := range g.Attached {
			access := "read-write"
			if c.ReadOnly {
				access = "read-only"
			}
			row("client", "%s at %s, %s, since %s", c.Container, c.Destination, access, time.Unix(c.Since, 0).Format(time.RFC3339))
		}
	}
	return t.Flush()
}

func pidOrDash(pid int) string {
	if pid == 0 {
		return "-"
	}
	return fmt.Sprint(pid)
}
