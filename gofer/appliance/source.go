// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"fsva/gofer/listen"
)

// plainName is a file name that no option list, fsname= or mtab line of a server can misread.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

// urlPassword matches a URL that has a password in it.
var urlPassword = regexp.MustCompile(`://[^/@]*:[^/@]+@`)

// holdsPassword reports whether a value that is shown in process lists and by fsva ls has a password in it. What it says
// no to may have one in a form that only the server knows.
func holdsPassword(value string) bool { return urlPassword.MatchString(value) }

// remoteOptions matches rclone's connection strings, such as ":s3,secret_access_key=...:bucket".
var remoteOptions = regexp.MustCompile(`^:?[^/:,]*,[^/]*=`)

// source checks a volume's source against what the appliance takes and puts it into the plan: Source, and for a local
// one the bind. It returns what ${source} stands for.
func (m *Manifest) source(v VolumeSpec, p *Plan) (string, error) {
	switch {
	case m.Source == SourceNone && v.Source != "":
		return "", fmt.Errorf("appliance %q takes no source: remove --source %s", m.Name, v.Source)
	case m.Source == SourceNone:
		return "", nil
	case v.Source == "":
		return "", fmt.Errorf("appliance %q needs a source: add --source %s", m.Name, m.sourceHint())
	}
	if holdsPassword(v.Source) {
		return "", fmt.Errorf("the source of appliance %q has a password in it, which everybody could read: put it into a file and name that with --option", m.Name)
	}
	if m.Source == SourceVM {
		return m.vmSource(v, p)
	}
	kind := m.Source
	if kind == SourceDirectoryOrRemote {
		kind = SourceRemote
		if strings.HasPrefix(v.Source, "/") || strings.HasPrefix(v.Source, ".") {
			kind = SourceDirectory
		}
	}
	if kind == SourceRemote {
		switch {
		case looksLikeArgument(v.Source):
			return "", fmt.Errorf("source %q has a dash where a name starts, so it would be taken for an argument", v.Source)
		case strings.ContainsFunc(v.Source, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return "", fmt.Errorf("source %q contains a control character", v.Source)
		case remoteOptions.MatchString(v.Source):
			return "", fmt.Errorf("the source of appliance %q has options in it, which everybody could read: put them into a file and name that with --option", m.Name)
		case !strings.Contains(v.Source, ":"):
			return "", fmt.Errorf("source %q is not of the kind that appliance %q needs: %s", v.Source, m.Name, m.sourceHint())
		}
		p.Source = v.Source
		return v.Source, nil
	}
	host, info, err := hostPath(v.Source)
	if err != nil {
		return "", fmt.Errorf("source %s: %w: appliance %q needs a %s", v.Source, err, m.Name, kind)
	}
	p.Source = host
	if kind == SourceDirectory {
		if !info.IsDir() {
			return "", fmt.Errorf("source %s is a %s: appliance %q needs a directory", v.Source, kindOf(info), m.Name)
		}
		p.bind(host, RootSource, p.ReadOnly)
		return RootSource, nil
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("source %s is a %s: appliance %q needs a file", v.Source, kindOf(info), m.Name)
	}
	if !hasSuffix(v.Source, m.SourceSuffixes) {
		return "", fmt.Errorf("source %s: appliance %q needs a file whose name ends in %s", v.Source, m.Name, list(m.SourceSuffixes))
	}
	name := filepath.Base(v.Source)
	if !plainName.MatchString(name) {
		name = "image"
	}
	path := RootSource + "/" + name
	p.bind(host, path, p.ReadOnly)
	p.grantAccess(info, !p.ReadOnly)
	return path, nil
}

// vmSource is source for a virtual machine's address. The directory of a socket is all that the server sees of the host.
func (m *Manifest) vmSource(v VolumeSpec, p *Plan) (string, error) {
	s, err := listen.ParseSource(v.Source)
	if err != nil {
		return "", err
	}
	p.Source = v.Source
	if s.Path() == "" {
		return v.Source, nil
	}
	dir := filepath.Dir(s.Path())
	host, info, err := hostPath(dir)
	if err != nil {
		return "", fmt.Errorf("source %s: directory %s: %w", v.Source, dir, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("source %s: %s is a %s, not a directory", v.Source, dir, kindOf(info))
	}
	p.bind(host, RootSource, !s.Listens())
	return s.In(RootSource), nil
}

// looksLikeArgument reports whether a remote's name, or the host in it, starts with a dash. Versions of sshfs before
// 2026 let "[-oProxyCommand=…]:" through to ssh (CVE-2026-48711).
func looksLikeArgument(remote string) bool {
	host, _, _ := strings.Cut(remote, ":")
	return strings.HasPrefix(host, "-") || strings.Contains(host, "@-") || strings.Contains(host, "[-")
}

// sourceHint is what stands after --source in a message.
func (m *Manifest) sourceHint() string {
	switch m.Source {
	case SourceFile:
		if len(m.SourceSuffixes) > 0 {
			return "FILE" + m.SourceSuffixes[0]
		}
		return "FILE"
	case SourceDirectory:
		return "DIRECTORY"
	case SourceVM:
		return "vsock:CID:PORT"
	case SourceDirectoryOrRemote:
		return "DIRECTORY or REMOTE:PATH"
	}
	return "[USER@]NAME:[PATH]"
}

// hasSuffix reports whether name ends in one of suffixes, in either case; any name does when there are none.
func hasSuffix(name string, suffixes []string) bool {
	for _, s := range suffixes {
		if strings.HasSuffix(strings.ToLower(name), s) {
			return true
		}
	}
	return len(suffixes) == 0
}

// hostPath returns the absolute path of an existing file, with no symbolic link in it, and what it is. The error is
// short: the caller names the path.
func hostPath(path string) (string, fs.FileInfo, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", nil, err
	}
	// First: EvalSymlinks has no errno for a loop.
	info, err := os.Stat(abs)
	if err != nil {
		return "", nil, plainCause(err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", nil, plainCause(err)
	}
	return abs, info, nil
}

// plainCause drops operation and path from an error of package os.
func plainCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// kindOf names what a file is.
func kindOf(info fs.FileInfo) string {
	switch t := info.Mode().Type(); {
	case t.IsRegular():
		return "file"
	case t.IsDir():
		return "directory"
	case t&fs.ModeSocket != 0:
		return "socket"
	case t&fs.ModeNamedPipe != 0:
		return "fifo"
	case t&fs.ModeCharDevice != 0:
		return "character device"
	case t&fs.ModeDevice != 0:
		return "block device"
	}
	return "special file"
}

// grantAccess adds the capability that uid 0 needs to open a file of somebody else, and none when the mode allows it.
func (p *Plan) grantAccess(info fs.FileInfo, write bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || p.InProcess != "" {
		return
	}
	shift := 0
	switch {
	case st.Uid == 0:
		shift = 6
	case st.Gid == 0:
		shift = 3
	}
	switch granted := uint32(st.Mode) >> shift; {
	case write && granted&6 != 6:
		p.capability("DAC_OVERRIDE")
	case granted&4 == 0:
		p.capability("DAC_READ_SEARCH")
	}
}
