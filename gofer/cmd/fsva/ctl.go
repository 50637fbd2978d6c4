// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"fsva/gofer/appliance"
	"fsva/gofer/bytesize"
	"fsva/gofer/supervisor"
)

// newCtlCommand is `fsva ctl`.
func newCtlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ctl NAME cache-limit BYTES",
		Short: "change a volume while it is being served",
		Long: `ctl changes a setting of a volume and prints what holds from now on.

cache-limit BYTES   how much file data the volume's cache keeps: a number of bytes
                    with K, M, G or T (powers of 1024), at least 1M; or default, a
                    quarter of the memory of the machine, or of fsva's cgroup`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "cache-limit" {
				return usageError{fmt.Errorf("%q is not a setting: the only one is cache-limit", args[1])}
			}
			bytes, err := appliance.ParseCacheLimit(args[2])
			if err != nil {
				return usageError{err}
			}
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			r, err := supervisor.SetCacheLimit(cmd.Context(), dirs, args[0], bytes)
			if err != nil {
				return err
			}
			return writeCacheLimit(cmd.OutOrStdout(), r)
		},
	}
}

func writeCacheLimit(w io.Writer, r supervisor.CacheLimitReply) error {
	text := fmt.Sprintf("cache limit %s", limitText(r.Limit))
	// Files in clients' hands cannot be evicted, and each other file can.
	if r.Cache.Donated > r.Limit.Effective {
		text += fmt.Sprintf("; clients hold %s, which nobody can take from them: the rest follows when they give up files",
			bytesize.Format(r.Cache.Donated))
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// limitText is a limit in words.
func limitText(l supervisor.CacheLimit) string {
	text := bytesize.Format(l.Configured)
	if l.Effective < l.Configured {
		text += fmt.Sprintf(", %s for now, because memory is short", bytesize.Format(l.Effective))
	}
	return text
}
