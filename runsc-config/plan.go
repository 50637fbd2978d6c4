// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package runscconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"golang.org/x/sys/unix"

	"fsva/gofer/atomicfile"
)

// Plan is a set of changes that has not been made yet.
type Plan struct {
	// Changes are in the order in which they are made; none if all is as it
	// should be.
	Changes []*Change
	// Notes are for the user: what the change does not do.
	Notes []string
	// Service is the command after which the daemon knows of the change, "" if
	// it is not a daemon of this machine.
	Service string

	prefix   string
	record   *Change
	obsolete []string // backups that are the same as a file that is restored
}

// Change is a new content for one file.
type Change struct {
	// Path is the file's name as its reader knows it. It may lead through
	// symbolic links.
	Path string
	// Before and After are contents, nil where there is no file.
	Before, After []byte
	// Backup is the file that got Before when the change was made, "" if there
	// is none.
	Backup string

	file  string // Path on disk, links resolved
	mode  uint32
	owner *atomicfile.Owner // nil for a new file
	ours  bool              // nobody but us has written Before: no backup
}

// Diff writes the changes in unified form.
func (p *Plan) Diff(w io.Writer) error {
	for _, c := range p.Changes {
		from, to := c.Path, c.Path
		if c.Before == nil {
			from = "/dev/null"
		}
		if c.After == nil {
			to = "/dev/null"
		}
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: lines(c.Before), B: lines(c.After), FromFile: from, ToFile: to, Context: 3,
		})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// lines splits text into lines, each with an end.
func lines(text []byte) []string {
	var all []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			line += "\n\\ No newline at end of file\n"
		}
		all = append(all, line)
	}
	return all
}

// Apply makes the changes: all, or, with an error, none. A file that was there
// is kept as a backup beside it.
func (p *Plan) Apply() error {
	all := append([]*Change(nil), p.Changes...)
	if p.record != nil {
		// First, if it is new: it says what may have happened. Last, if it goes.
		if p.record.After != nil {
			all = append([]*Change{p.record}, all...)
		} else {
			all = append(all, p.record)
		}
	}
	for i, c := range all {
		err := c.apply()
		if err == nil {
			continue
		}
		for _, done := range all[:i] {
			if uerr := done.undo(); uerr != nil {
				err = fmt.Errorf("%w; and taking back the change of %s: %w", err, done.file, uerr)
			}
		}
		return err
	}
	for _, backup := range p.obsolete {
		if err := os.Remove(backup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readChange starts a change of the file at path.
func readChange(prefix, path string) (*Change, error) {
	file, err := resolve(prefix, path)
	if err != nil {
		return nil, err
	}
	c := &Change{Path: path, file: file, mode: 0o644}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); errors.Is(err, unix.ENOENT) {
		return c, nil
	} else if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	c.mode, c.owner = st.Mode&0o777, &atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	if c.Before, err = os.ReadFile(file); err != nil {
		return nil, err
	}
	if c.Before == nil {
		c.Before = []byte{}
	}
	return c, nil
}

// apply makes the change, if the file is still what it was.
func (c *Change) apply() error {
	now, err := os.ReadFile(c.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if (err == nil) != (c.Before != nil) || !bytes.Equal(now, c.Before) {
		return fmt.Errorf("%s has changed meanwhile: try again", c.file)
	}
	if c.Before != nil && !c.ours {
		if err := c.backUp(); err != nil {
			return err
		}
	}
	if err := c.set(c.After); err != nil {
		if c.Backup != "" {
			err = errors.Join(err, os.Remove(c.Backup))
		}
		return err
	}
	return nil
}

// undo takes the change back after apply.
func (c *Change) undo() error {
	if err := c.set(c.Before); err != nil {
		return err
	}
	if c.Backup == "" {
		return nil
	}
	return os.Remove(c.Backup)
}

// set replaces the file's content in one step; nil removes the file.
func (c *Change) set(content []byte) error {
	if content == nil {
		err := os.Remove(c.file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file), 0o755); err != nil {
		return err
	}
	return c.write(c.file, content)
}

// write makes a file with the file's owner and mode.
func (c *Change) write(name string, content []byte) error {
	return atomicfile.Write(name, content, atomicfile.Options{Mode: c.mode, Owner: c.owner, Durable: true})
}

// maxBackups bounds how many backups a file may have.
const maxBackups = 1000

// backupName is the name of the i-th backup of file.
func backupName(file string, i int) string {
	if i == 0 {
		return file + ".fsva-backup"
	}
	return file + ".fsva-backup." + strconv.Itoa(i+1)
}

// backUp keeps Before in a new file.
func (c *Change) backUp() error {
	for i := range maxBackups {
		name := backupName(c.file, i)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("keep a backup: %w", err)
		}
		err = f.Close() // the name is ours now
		if err == nil {
			err = c.write(name, c.Before)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("keep a backup: %w", err), os.Remove(name))
		}
		c.Backup = name
		return nil
	}
	return fmt.Errorf("%s has %d backups: remove some", c.file, maxBackups)
}

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// resolve returns where path, absolute, leads below prefix: links are followed
// as if prefix were the root. The last parts need not exist.
func resolve(prefix, path string) (string, error) {
	rest := strings.Split(filepath.Clean(path), "/")
	at := "/" // below prefix, without links
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, part)
		target, err := os.Readlink(filepath.Join(prefix, next))
		if err != nil { // not a link, or nothing there
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", path)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return filepath.Join("/", prefix, at), nil
}
