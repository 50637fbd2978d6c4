// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lock is the right to a volume's name. The file exists for as long as the name
// is used; an flock(2) on it says that its user is alive.
type lock struct {
	f    *os.File
	path string
}

// inUseError says who holds a lock.
type inUseError struct {
	pid int // 0 when it is not known
}

func (e *inUseError) Error() string {
	if e.pid == 0 {
		return "already served by another process"
	}
	return fmt.Sprintf("already served by pid %d", e.pid)
}

// ErrInUse is wrapped by the error of Serve when the name is served already.
var ErrInUse = errors.New("already served")

// Is makes it an ErrInUse.
func (e *inUseError) Is(target error) bool { return target == ErrInUse }

// acquire takes the lock at path or returns an *inUseError.
func acquire(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			e := &inUseError{pid: readPID(f)}
			f.Close()
			return nil, e
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The previous holder may have removed the file between our open and
		// lock, and somebody else may have made and locked a new one.
		if current, err := isAt(f, path); err != nil || !current {
			f.Close()
			if err != nil {
				return nil, err
			}
			continue
		}
		l := &lock{f: f, path: path}
		if err := l.writePID(); err != nil {
			l.release()
			return nil, err
		}
		return l, nil
	}
}

// lockNames keeps others from taking a name's lock for a short time, so that
// whoever finds a name locked then knows that it is being served. It blocks.
func (d Dirs) lockNames() (unlock func(), err error) {
	f, err := os.Open(d.locks())
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// release gives up the name: its file goes, then the lock.
func (l *lock) release() error {
	err := os.Remove(l.path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil // the whole RUNDIR was removed
	}
	if cerr := l.f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (l *lock) writePID() error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// waitReleased blocks until nobody holds the lock that f, open on its file, was
// opened at. It owns f.
func waitReleased(f *os.File) error {
	defer f.Close()
	return flock(f, unix.LOCK_SH)
}

// flock is flock(2), retried when a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// isAt reports whether path still names f.
func isAt(f *os.File, path string) (bool, error) {
	open, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}

func readPID(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
