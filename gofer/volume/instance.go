// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/supervisor"
)

// MaxDedicatedName is how long the name of a dedicated volume may be: that of an
// instance is longer by suffixLen, and no longer than a volume's may be.
const MaxDedicatedName = 63 - suffixLen

var suffixRE = regexp.MustCompile(`^\.[0-9a-f]{16}$`)

// InstanceSuffix is what the names of the instances of one container end in. runscRoot
// is where its runsc keeps its state, because IDs are unique only in there.
func InstanceSuffix(runscRoot, container string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(runscRoot) + "\x00" + container))
	return "." + hex.EncodeToString(sum[:8])
}

// SplitInstance returns the volume that an instance of this name belongs to. Other
// volumes may have a name of this form, too.
func SplitInstance(instance string) (name string, ok bool) {
	if len(instance) <= suffixLen {
		return "", false
	}
	name, suffix := instance[:len(instance)-suffixLen], instance[len(instance)-suffixLen:]
	return name, suffixRE.MatchString(suffix)
}

// Mounted returns the definition of the dedicated volume whose directory, or the
// directory of one of whose instances below runDir, dir is. ok is false if it is none. An
// error is one line: dir claims to be a dedicated volume, and is not.
//
// dir may hold anything: a container may have written it.
func (s *Store) Mounted(dir, runDir string) (d Definition, ok bool, err error) {
	dir = filepath.Clean(dir)
	if base := filepath.Base(dir); filepath.Dir(dir) == filepath.Join(runDir, "volumes") {
		// config.json was rewritten for an earlier container.
		if name, is := SplitInstance(base); is {
			if d, err := s.Get(name); err == nil && d.Dedicated {
				return d, true, nil
			}
		}
		return Definition{}, false, nil
	}
	info, err := attach.ReadInfo(dir)
	name := ""
	switch {
	case err == nil && info.Dedicated:
		name = info.Name
	case err == nil:
		return Definition{}, false, nil
	case filepath.Dir(dir) == s.dedicated():
		name = filepath.Base(dir) // made by docker, or spoiled
	default:
		return Definition{}, false, nil
	}
	if supervisor.CheckName(name) != nil || !sameDir(dir, s.MountDir(name)) {
		return Definition{}, true, fmt.Errorf("%s is not the directory of a dedicated volume of %s (FSVA_STATEDIR)", dir, s.state)
	}
	d, err = s.Get(name)
	if errors.Is(err, ErrNotDefined) || err == nil && !d.Dedicated {
		return Definition{}, true, fmt.Errorf("no dedicated volume %q is defined: fsva volume create %s --dedicated", name, name)
	}
	return d, true, err
}

// Claim takes the right to run an instance of the dedicated volume d: of an exclusive
// volume there is one that writes, or several that only read. It waits for another
// one to end until done is closed.
func (s *Store) Claim(d Definition, exclusive, readOnly bool, done <-chan struct{}) (release func(), err error) {
	if !exclusive {
		return func() {}, nil
	}
	f, err := os.Open(s.path(d.Name))
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if readOnly {
		how = unix.LOCK_SH
	}
	locked := make(chan error, 1)
	go func() { // ends with the lock, or with the process if that takes for ever
		for {
			if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return func() { f.Close() }, nil
	case <-done:
		go func() { // not ours any more
			<-locked
			f.Close()
		}()
		return nil, fmt.Errorf("volume %q is exclusive and another container has an instance of it: stop that one, or mount it read-only in all", d.Name)
	}
}

func sameDir(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// Instances returns those of names that are instances of the volume.
func Instances(names []string, volume string) []string {
	var found []string
	for _, n := range names {
		if name, ok := SplitInstance(n); ok && name == volume && strings.HasPrefix(n, volume+".") {
			found = append(found, n)
		}
	}
	return found
}
