// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/listen"
	"fsva/gofer/serving"
	"fsva/gofer/vsock"
)

// newExportCommand is `fsva export`.
func newExportCommand() *cobra.Command {
	var addresses []string
	var logs logFlags
	c := serving.ExportConfig{}
	cmd := &cobra.Command{
		Use:   "export DIR --listen vsock:PORT|unix:PATH [flags]",
		Short: "serve a directory of a virtual machine to a volume with isolation vm",
		Long: `export runs inside a virtual machine. It serves a directory, with whatever file
system its kernel has mounted there, until it is stopped by SIGTERM or SIGINT. On
the host, fsva serve --isolation vm --source vsock:CID:PORT makes a volume of it.

A vsock port answers the host only; cid=CID after a comma names others, cid=any all.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			c.Dir = dir
			if c.Listen, err = exportListeners(addresses); err != nil {
				return usageError{err}
			}
			if c.Coherence != attach.Exclusive && c.Coherence != attach.Shared {
				return usageError{fmt.Errorf("--coherence %q is neither exclusive nor shared", c.Coherence)}
			}
			if c.Log, _, err = logs.logger(cmd.ErrOrStderr()); err != nil {
				return usageError{err}
			}
			c.Ready = func() { fmt.Fprintf(cmd.OutOrStdout(), "fsva: exporting %s\n", c.Dir) }
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
			defer stop()
			// Whoever read our output may go.
			signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
			return serving.Export(ctx, c)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVar(&addresses, "listen", nil, "`KIND:ADDRESS`, as of fsva serve; may be repeated")
	fl.StringVar(&c.Name, "name", "export", "the name that clients may ask for")
	fl.StringVar(&c.Coherence, "coherence", attach.Shared, "exclusive if nothing else changes the directory: then there is one client, and it may cache")
	fl.BoolVar(&c.ReadOnly, "readonly", false, "refuse all changes")
	logs.add(fl)
	return cmd
}

// exportListeners parses addresses. On vsock it is the host that may connect, if
// nobody is named.
func exportListeners(addresses []string) ([]listen.Spec, error) {
	if len(addresses) == 0 {
		return nil, errors.New("--listen is missing")
	}
	if len(addresses) > listen.Max {
		return nil, fmt.Errorf("--listen is given %d times, the most is %d", len(addresses), listen.Max)
	}
	var specs []listen.Spec
	for _, text := range addresses {
		if strings.HasPrefix(text, string(vsock.Kernel)+":") && !strings.Contains(text, ",cid=") {
			text += fmt.Sprintf(",cid=%d", vsock.CIDHost)
		}
		s, err := listen.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("--listen: %w", err)
		}
		if s.Kind == vsock.VhostUser || s.Kind == listen.Virtiofs {
			return nil, fmt.Errorf("--listen %s: an export listens on vsock, unix or hybrid-vsock", text)
		}
		if s.Secret != nil {
			return nil, fmt.Errorf("--listen %s: an export has no secret: cid= says who may connect", text)
		}
		specs = append(specs, s)
	}
	return specs, nil
}
