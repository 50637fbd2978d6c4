// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// leftOut are what an FS server does not need of Debian packages, what is made for each of them when it starts, and what
// comes from the machine that the image is built on.
var leftOut = []string{
	"dev", "proc", "sys", "tmp", "run", "root", "boot", "home", "media", "mnt", "srv",
	"etc/apt", "etc/dpkg", "etc/cron.d", "etc/cron.daily", "etc/init.d", "etc/fstab", "etc/hostname",
	"lib/systemd", "usr/lib/systemd", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log",
	"usr/share/bash-completion", "usr/share/bug", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/zsh",
}

// written are what the packages' scripts, which do not run, would have made.
var written = map[string]string{
	"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
	"etc/hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
	"etc/passwd":        "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"etc/resolv.conf":   "",
}

// Where certificates are in the package ca-certificates, and where programs look for them.
const (
	certificates = "usr/share/ca-certificates/"
	bundle       = "etc/ssl/certs/ca-certificates.crt"
)

// keep reports whether an image has a file of a package.
func keep(name string) bool {
	for _, out := range leftOut {
		if name == out || strings.HasPrefix(name, out+"/") {
			return false
		}
	}
	// Of the documentation, the licenses stay.
	if doc, ok := strings.CutPrefix(name, "usr/share/doc/"); ok && strings.Contains(doc, "/") {
		return path.Base(name) == "copyright"
	}
	_, ours := written[name]
	return !ours
}

// rewrite copies the tar stream of a root file system, without what an image does not need, with what it needs in
// addition, and with nothing in it that depends on when and where it was made.
func rewrite(r io.Reader, w io.Writer) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	var certs bytes.Buffer
	seen := map[string]bool{}
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("mmdebstrap's tar file: %w", err)
		}
		name := path.Clean("/" + h.Name)[1:]
		if name == "" || !keep(name) {
			continue
		}
		seen[name] = true
		var body io.Reader = in
		if strings.HasPrefix(name, certificates) && strings.HasSuffix(name, ".crt") && h.Typeflag == tar.TypeReg {
			body = io.TeeReader(in, &certs)
		}
		clean := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size, ModTime: time.Unix(0, 0)}
		if h.Typeflag == tar.TypeDir {
			clean.Name += "/"
		}
		if err := out.WriteHeader(clean); err != nil {
			return err
		}
		if _, err := io.Copy(out, body); err != nil {
			return err
		}
	}
	if certs.Len() > 0 {
		if err := write(out, bundle, certs.String(), seen); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(written))
	for name := range written {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := write(out, name, written[name], seen); err != nil {
			return err
		}
	}
	return out.Close()
}

// write adds a file, and the directories that it is in unless they have been seen.
func write(out *tar.Writer, name, text string, seen map[string]bool) error {
	var dirs []string
	for dir := path.Dir(name); dir != "." && !seen[dir]; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
		seen[dir] = true
	}
	slices.Reverse(dirs)
	for _, dir := range dirs {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := io.WriteString(out, text)
	return err
}
