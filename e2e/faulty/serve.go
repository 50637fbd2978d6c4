// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// faultsFile is what fails, below the source; treeDir is what is served.
const (
	faultsFile = "faults"
	treeDir    = "tree"
)

// errnos are those that a fault can be.
var errnos = map[string]unix.Errno{"EIO": unix.EIO, "ENOSPC": unix.ENOSPC}

// server is a file system some operations of which fail, and then do nothing else. It is the only one that changes its
// tree, so all that it says may be cached, listings of directories included.
type server struct {
	fuse.RawFileSystem
	faults string // path
}

func serve(source, mountpoint string) error {
	root, err := fusefs.NewLoopbackRoot(filepath.Join(source, treeDir))
	if err != nil {
		return err
	}
	valid := time.Hour
	s := &server{fusefs.NewNodeFS(root, &fusefs.Options{EntryTimeout: &valid, AttrTimeout: &valid}), filepath.Join(source, faultsFile)}
	// The device is a socket: one write must be one reply.
	f, err := fuse.NewServer(s, mountpoint, &fuse.MountOptions{FsName: "faulty", DisableSplice: true})
	if err != nil {
		return err
	}
	f.Serve()
	return nil
}

// fault returns the error with which an operation is to fail, or OK.
func (s *server) fault(op string) fuse.Status {
	data, err := os.ReadFile(s.faults)
	if errors.Is(err, fs.ErrNotExist) {
		return fuse.OK
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faulty:", err)
		return fuse.EPERM // none that anybody asks for
	}
	for line := range strings.Lines(string(data)) {
		if name, errno, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == op {
			return fuse.Status(errnos[errno])
		}
	}
	return fuse.OK
}

// OpenDir implements fuse.RawFileSystem.
func (s *server) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	st := s.RawFileSystem.OpenDir(cancel, in, out)
	out.OpenFlags |= fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return st
}

// Write implements fuse.RawFileSystem.
func (s *server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if st := s.fault("WRITE"); !st.Ok() {
		return 0, st
	}
	return s.RawFileSystem.Write(cancel, in, data)
}

// Writev implements fuse.RawFileSystem: it is what go-fuse makes of WRITE if it can.
func (s *server) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if st := s.fault("WRITE"); !st.Ok() {
		return 0, st
	}
	return s.RawFileSystem.Writev(cancel, in, data)
}

// Fsync implements fuse.RawFileSystem.
func (s *server) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if st := s.fault("FSYNC"); !st.Ok() {
		return st
	}
	return s.RawFileSystem.Fsync(cancel, in)
}

// Flush implements fuse.RawFileSystem.
func (s *server) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if st := s.fault("FLUSH"); !st.Ok() {
		return st
	}
	return s.RawFileSystem.Flush(cancel, in)
}
