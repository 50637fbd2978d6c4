// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fsva/gofer/bytesize"
	"fsva/gofer/latency"
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
	if s.Restarts > 0 {
		row("restarts", "%d", s.Restarts)
	}
	for _, l := range s.Listen {
		row("listens on", "%s", l)
	}
	for _, d := range s.VsockDevices {
		text := fmt.Sprintf("process %s of %s", pidOrDash(d.PID), d.Listen)
		if d.Restarts > 0 {
			text += fmt.Sprintf(", started again %d times", d.Restarts)
		}
		if d.Reason != "" {
			text += ": " + d.Reason
		}
		row("vsock device", "%s", text)
	}
	if s.Window != "" {
		row("windows from", "%s", s.Window)
	}
	row("processes", "supervisor %d, gofer %s, FS server %s", s.PID, pidOrDash(s.GoferPID), pidOrDash(s.ServerPID))
	if r := s.Ready; r != nil && r.FuseMinor != 0 {
		row("FUSE", "7.%d, writes to %d bytes, reads to %d bytes", r.FuseMinor, r.MaxWrite, r.MaxRead)
	}
	if s.GoferError != "" {
		row("gofer", "%s", s.GoferError)
	}
	if l := s.CacheLimit; l != nil {
		row("cache limit", "%s", limitText(*l))
		if l.Watching != "" {
			row("memory pressure", "watching %s, limit reduced %d times", l.Watching, l.Reductions)
		} else {
			row("memory pressure", "not watched: %s", orDash(l.WatchError))
		}
	}
	if g := s.Gofer; g != nil {
		row("FUSE requests", "%d, %d in flight, %d notifications, %d bad replies", g.Requests, g.InFlight, g.Notifies, g.BadReplies)
		row("FUSE data", "%d bytes read, %d bytes written", g.BytesRead, g.BytesWrite)
		if c := g.Cache; c != nil {
			row("cache", "%s in %d files, %s of it in clients' hands (%d files), %s dirty",
				bytesize.Format(c.Resident), c.Files, bytesize.Format(c.Donated), c.DonatedFiles, bytesize.Format(c.Dirty))
			row("cache use", "%d hits, %d misses (%s hits), %d fills of %s, %d evictions, %d donations", c.Hits, c.Misses,
				percent(c.Hits, c.Hits+c.Misses), c.Fills, bytesize.Format(int64(min(c.BytesFilled, math.MaxInt64))), c.Evictions, c.Donations)
		}
		if s.Window != "" {
			row("windows", "%d, %d of them in use", g.Windows, g.WindowsUsed)
		}
		row("clients", "%d, %d attached since the start, %d refused", g.Clients, g.Attaches, g.Refused)
		for _, c := range g.Attached {
			access := "read-write"
			if c.ReadOnly {
				access = "read-only"
			}
			who := fmt.Sprintf("%s at %s", c.Container, c.Destination)
			if c.Guest != "" {
				who = fmt.Sprintf("guest %s via %s", c.Guest, c.Via)
			}
			row("client", "%s, %s, since %s", who, access, time.Unix(c.Since, 0).Format(time.RFC3339))
		}
	}
	writeOps(t, "RPCs of clients", s.RPCs)
	writeOps(t, "FUSE requests of guests", s.GuestRequests)
	writeOps(t, "FUSE requests by operation", s.FUSE)
	return t.Flush()
}

// writeOps writes a table of requests, the most frequent kind first. Times are
// those of the requests that somebody waited for.
func writeOps(t *tabwriter.Writer, title string, ops map[string]latency.Op) {
	if len(ops) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(ops), func(a, b string) int {
		return cmp.Or(cmp.Compare(ops[b].Requests, ops[a].Requests), cmp.Compare(a, b))
	})
	// Its columns are its own: an empty line ends those before.
	fmt.Fprintf(t, "\n%s\tCOUNT\tERRORS\tP50\tP90\tP99\tMAX\n", title)
	for _, name := range names {
		op := ops[name]
		l := op.Latency
		fmt.Fprintf(t, "  %s\t%d\t%d", name, op.Requests, op.Errors)
		for _, ns := range []uint64{l.P50Ns, l.P90Ns, l.P99Ns, l.MaxNs} {
			if l.Count == 0 {
				fmt.Fprint(t, "\t-")
				continue
			}
			fmt.Fprintf(t, "\t%s", shortDuration(ns))
		}
		fmt.Fprintln(t)
	}
}

// shortDuration writes nanoseconds with about three digits.
func shortDuration(ns uint64) string {
	d := time.Duration(min(ns, math.MaxInt64))
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*unit {
			return d.Round(unit).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

func percent(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

func pidOrDash(pid int) string {
	if pid == 0 {
		return "-"
	}
	return fmt.Sprint(pid)
}
