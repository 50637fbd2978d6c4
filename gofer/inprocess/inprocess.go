// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package inprocess opens the file systems that run inside the gofer itself
// (isolation none): a directory, memory, and archives.
//
// They have no FS server to mistrust, but their data is not trusted: archives
// come from anywhere (package archive), and a directory may be changed by its
// owner while it is served (package dirfs). Their callers are our frontends,
// which check what sandboxes send; names, flags and modes are checked again
// here (guard.go).
//
// Precondition for all of them: the process's umask is 0, because the modes of
// new files come complete from the application's side.
package inprocess

import (
	"fmt"
	"log/slog"

	"github.com/hanwen/go-fuse/v2/fuse"

	"fsva/gofer/bytesize"
	"fsva/gofer/inprocess/archive"
	"fsva/gofer/inprocess/dirfs"
)

// Options configure a file system.
type Options struct {
	// ReadOnly refuses every change with EROFS, whatever the source allows.
	ReadOnly bool
	// Shared says that others change the files too, so nothing may be answered
	// from a cache.
	Shared bool
	// Settings are the volume's options, by name, already checked against the
	// appliance's manifest.
	Settings map[string]string
	// Log is for what an administrator should know; nil means slog.Default.
	Log *slog.Logger
}

// Open returns the file system of the given kind for source, a path in the
// calling process's root:
//
//   - "dir": the directory source itself;
//   - "mem": the same, on a private tmpfs that was mounted at source;
//   - "zip", "tar": the archive in the file source, read-only.
//
// Errors are one line; the caller says which source it is about. The file system's OnUnmount releases what it holds.
func Open(kind, source string, o Options) (fuse.RawFileSystem, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	var fs fuse.RawFileSystem
	var err error
	switch kind {
	case "dir", "mem":
		fs, err = dirfs.New(source, dirfs.Options{Shared: o.Shared && kind == "dir", Log: o.Log})
	case "zip", "tar":
		fs, err = openArchive(kind, source, o)
		o.ReadOnly = true
	default:
		return nil, fmt.Errorf("no in-process file system is called %q", kind)
	}
	if err != nil {
		return nil, err
	}
	return &guard{RawFileSystem: fs, readOnly: o.ReadOnly, exclusive: kind == "dir" || kind == "mem"}, nil
}

// openArchive applies the options of the archive appliances, sizes in bytes or with
// a unit, such as 512M.
func openArchive(kind, source string, o Options) (fuse.RawFileSystem, error) {
	opts := archive.Options{Kind: kind, Log: o.Log}
	for _, s := range []struct {
		name string
		to   *int64
	}{
		{"max-unpacked", &opts.MaxUnpacked},
		{"cache-size", &opts.CacheSize},
	} {
		text := o.Settings[s.name]
		if text == "" {
			continue
		}
		var err error
		if *s.to, err = bytesize.Parse(text); err != nil {
			return nil, fmt.Errorf("option %s: %w", s.name, err)
		}
	}
	return archive.Open(source, opts)
}
