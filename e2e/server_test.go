// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsva/e2e/harness"
	"fsva/gofer/conformance"
)

// server is one appliance under test.
type server struct {
	appliance string
	// medium tells apart the entries of an appliance that has several.
	medium     string
	isolations []string
	tree       conformance.Tree // what its medium can hold
	readOnly   bool
	skip       string // the checks of fscheck's that take too long, an expression
	// source makes a fresh medium in dir, empty, or holding the tree if the server is read-only.
	source func(t *testing.T, dir string, tree conformance.Tree) source
}

// source is a medium and how to serve it.
type source struct {
	// flags go to fsva serve after --appliance.
	flags []string
	// native mounts the same on the kernel, with the options of the appliance's manifest and what makes it
	// comparable: other users may enter and the kernel checks permissions, as the sentry does. "MNT" is the mount
	// point. Nil for in-process file systems.
	native []string
	// secrets are the texts in the medium's secret files that must be seen nowhere else.
	secrets []string
}

// name returns the appliance, and the medium if there are several.
func (s server) name() string {
	if s.medium == "" {
		return s.appliance
	}
	return s.appliance + "-" + s.medium
}

var fullTree = conformance.Tree{Files: 1000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true}

// servers lists the appliances of images/, each of them.
var servers = []server{
	{appliance: "dir", isolations: []string{"none"}, tree: fullTree, source: func(t *testing.T, _ string, _ conformance.Tree) source {
		return source{flags: []string{"--source", env.Tmpfs(t)}}
	}},
	{appliance: "mem", isolations: []string{"none"}, tree: conformance.Tree{Files: 1000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true},
		source: func(*testing.T, string, conformance.Tree) source { return source{} }},
	{appliance: "zip", isolations: []string{"none"}, readOnly: true, tree: conformance.Tree{Files: 10_000}, source: zipSource},
	{appliance: "tar", isolations: []string{"none"}, readOnly: true, tree: conformance.Tree{Files: 10_000, Symlinks: true}, source: tarSource},
	{appliance: "squashfs", isolations: []string{"gvisor", "process"}, readOnly: true,
		tree: conformance.Tree{Files: 10_000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true}, source: squashfsSource},
	{appliance: "ext4", isolations: []string{"gvisor"}, tree: fullTree, source: ext4Source},
	{appliance: "exfat", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 1000}, source: exfatSource,
		skip: "^limit/10000-files$"}, // it looks for each name from the start of the directory
	{appliance: "iso", isolations: []string{"gvisor"}, readOnly: true, tree: conformance.Tree{Files: 1000, Symlinks: true, NameMax: 254}, source: isoSource},
	{appliance: "mergerfs", isolations: []string{"gvisor"}, tree: fullTree, source: mergerfsSource},
	{appliance: "fuse-overlayfs", isolations: []string{"gvisor"},
		tree: conformance.Tree{Files: 1000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true, NameMax: 251}, source: overlaySource,
		skip: "^limit/10000-files$"}, // 22 s on the kernel too
	{appliance: "bindfs", isolations: []string{"gvisor", "process"}, tree: fullTree, source: bindfsSource},
	{appliance: "sshfs", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 1000, Sparse: true, HardLink: true, Symlinks: true}, source: sshfsSource},
	{appliance: "gocryptfs", isolations: []string{"gvisor"}, tree: fullTree, source: gocryptfsSource},
	{appliance: "rclone", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 1000}, source: rcloneSource,
		skip: "^limit/10000-files$"}, // four minutes on two busy cores
	{appliance: "ntfs", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 1000, Xattr: true, HardLink: true, Symlinks: true}, source: ntfsSource},
	{appliance: "rclone", medium: "webdav", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 200}, source: webdavSource,
		skip: "^limit/(10000-files|sparse-5GiB)$"}, // half a dozen requests for each; all of it
	{appliance: "s3", isolations: []string{"gvisor"}, tree: conformance.Tree{Files: 100, Xattr: true, Symlinks: true}, source: s3Source,
		skip: "^limit/(10000-files|sparse-5GiB)$"}, // a dozen requests for each; all of it
	{appliance: "encfs", isolations: []string{"gvisor"}, source: encfsSource,
		skip: "^limit/10000-files$", // a minute on two cores
		// It stores a name of 176 bytes as one of more than 255.
		tree: conformance.Tree{Files: 1000, Sparse: true, Xattr: true, HardLink: true, Symlinks: true, NameMax: 143}},
}

// serverNamed returns the entry of one appliance.
func serverNamed(t *testing.T, appliance string) server {
	t.Helper()
	for _, s := range servers {
		if s.appliance == appliance {
			return s
		}
	}
	t.Fatalf("no server %q", appliance)
	return server{}
}

// serve starts a volume of the appliance on a fresh medium.
func serve(t *testing.T, name, appliance string, flags ...string) *harness.Volume {
	t.Helper()
	harness.NeedRoot(t)
	s := serverNamed(t, appliance)
	src := s.source(t, env.TempDir(t), s.tree)
	return env.Serve(t, name, append(append([]string{"--appliance", appliance}, src.flags...), flags...)...)
}

// writeTree makes the fixed tree on the host, to be packed.
func writeTree(t *testing.T, dir string, tree conformance.Tree) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, append([]string{env.Binary(t, "fscheck"), "-dir", dir, "-mode", "prepare"}, treeFlags(tree)...)...)
}

// treeFlags are fscheck's flags for a tree.
func treeFlags(tree conformance.Tree) []string {
	return []string{
		fmt.Sprintf("-files=%d", tree.Files), fmt.Sprintf("-sparse=%v", tree.Sparse), fmt.Sprintf("-xattr=%v", tree.Xattr),
		fmt.Sprintf("-hardlink=%v", tree.HardLink), fmt.Sprintf("-symlinks=%v", tree.Symlinks), fmt.Sprintf("-name-max=%d", tree.NameMax),
	}
}

func squashfsSource(t *testing.T, dir string, tree conformance.Tree) source {
	harness.NeedCommand(t, "squashfuse_ll", "squashfuse")
	mk := harness.NeedCommand(t, "mksquashfs", "squashfs-tools")
	img := filepath.Join(dir, "tree.squashfs")
	writeTree(t, filepath.Join(dir, "tree"), tree)
	// gzip level 1: most of the time goes into 5 GiB of zeros.
	harness.Must(t, mk, filepath.Join(dir, "tree"), img, "-quiet", "-no-progress", "-Xcompression-level", "1")
	return source{
		flags:  []string{"--source", img},
		native: []string{"squashfuse_ll", "-f", "-o", "allow_other,default_permissions", img, "MNT"},
	}
}

func tarSource(t *testing.T, dir string, tree conformance.Tree) source {
	archive := filepath.Join(dir, "tree.tar.gz")
	writeTree(t, filepath.Join(dir, "tree"), tree)
	harness.Must(t, "tar", "-C", filepath.Join(dir, "tree"), "-czf", archive, ".")
	return source{flags: []string{"--source", archive}}
}

func zipSource(t *testing.T, dir string, tree conformance.Tree) source {
	archive := filepath.Join(dir, "tree.zip")
	writeTree(t, filepath.Join(dir, "tree"), tree)
	if err := writeZip(filepath.Join(dir, "tree"), archive); err != nil {
		t.Fatal(err)
	}
	return source{flags: []string{"--source", archive}}
}

func ext4Source(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "fuse2fs", "fuse2fs")
	mk := harness.NeedCommand(t, "mke2fs", "e2fsprogs")
	img := filepath.Join(dir, "disk.ext4")
	if err := writeSized(img, 1<<30); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, mk, "-q", "-F", "-t", "ext4", img)
	return source{
		flags:  []string{"--source", img},
		native: []string{"fuse2fs", "-f", "-o", "fakeroot,allow_other,default_permissions", img, "MNT"},
	}
}

func ntfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "ntfs-3g", "ntfs-3g")
	mk := harness.NeedCommand(t, "mkntfs", "ntfs-3g")
	img := filepath.Join(dir, "disk.ntfs")
	if err := writeSized(img, 1<<30); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, mk, "-q", "-F", "-f", img)
	return source{
		flags: []string{"--source", img},
		native: []string{"ntfs-3g", "-n", "-o", "no_detach,permissions,posix_nlink,big_writes,streams_interface=xattr,allow_other",
			img, "MNT"},
	}
}

func bindfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "bindfs", "bindfs")
	return source{
		flags:  []string{"--source", dir},
		native: []string{"bindfs", "-f", "--multithreaded", "--xattr-rw", "-o", "allow_other,default_permissions", dir, "MNT"},
	}
}

func gocryptfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	bin := harness.NeedCommand(t, "gocryptfs", "gocryptfs")
	pass, cipher := filepath.Join(dir, "pass"), filepath.Join(dir, "cipher")
	password := rand.Text()
	writeSecret(t, pass, password+"\n")
	if err := os.Mkdir(cipher, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, bin, "-init", "-q", "-scryptn", "10", "-passfile", pass, cipher)
	return source{
		flags:   []string{"--source", cipher, "--option", "passfile=" + pass},
		native:  []string{bin, "-fg", "-q", "-nosyslog", "-allow_other", "-passfile", pass, cipher, "MNT"},
		secrets: []string{password},
	}
}

func rcloneSource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "rclone", "rclone")
	data, cache := filepath.Join(dir, "data"), filepath.Join(dir, "cache")
	for _, d := range []string{data, cache} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return source{
		flags: []string{"--source", data},
		native: []string{"env", "RCLONE_CONFIG=/dev/null", "rclone", "mount", data, "MNT", "--allow-other", "--default-permissions",
			"--dir-perms=0777", "--file-perms=0666", "--umask=0", "--cache-dir=" + cache, "--vfs-cache-mode=writes", "--vfs-write-back=5s"},
	}
}

func sshfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "sshfs", "sshfs")
	srv := startSSHD(t, dir)
	remote := "root@127.0.0.1:" + srv.share
	native := []string{"sshfs", "-f", "-F", "/dev/null"}
	for _, o := range []string{"port=" + srv.port, "IdentityFile=" + srv.key, "UserKnownHostsFile=" + srv.knownHosts, "reconnect",
		"allow_other", "default_permissions", "idmap=user", "BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null",
		"IdentitiesOnly=yes"} {
		native = append(native, "-o", o)
	}
	return source{
		flags: []string{"--source", remote, "--network", "host", "--option", "identity=" + srv.key,
			"--option", "known-hosts=" + srv.knownHosts, "--option", "port=" + srv.port},
		native:  append(native, remote, "MNT"),
		secrets: keyLines(t, srv.key),
	}
}

// writeSized makes a sparse file.
func writeSized(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// volumeName makes a volume name from a test's: unique among the tests, valid, and easy to find in a process list.
func volumeName(t *testing.T) string {
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	return strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '-'
	}, name)
}
