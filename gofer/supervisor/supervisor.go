// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package supervisor starts, watches and stops the processes of one volume, and
// lists and stops volumes that are being served.
//
// A supervisor is root's own process. It starts the FS server (package fsserver)
// and the gofer, each in its own namespaces, and joins them by the FUSE channel,
// a socketpair of which it keeps no end. It parses no byte that an FS server, a
// sandbox or a VM sent: an FS server's output is shown as text, line by line,
// bounded and made printable; the gofer's messages are those of goferproto. The
// peers on the control socket are root's own commands. Sockets for guests are made
// here and served by the gofer; hypervisors get their windows from here, and what
// they say is not looked at.
//
// A gofer that dies is started again, with the same listening sockets and windows,
// and with a new FS server. Its sandboxes are lost, guests connect again.
//
// A volume exists on disk as (RUNDIR is Dirs.Run):
//
//	RUNDIR/locks/NAME         locked by the supervisor for as long as it lives
//	RUNDIR/control/NAME.sock  its control API
//	RUNDIR/private/NAME/      the FS server's root and runsc bundle
//	RUNDIR/volumes/NAME/      volume.json and gofer.sock; appears when the volume is ready
//	RUNDIR/runsc/NAME/        state of the runsc that runs the FS server
//
// Every process ends with its parent (PR_SET_PDEATHSIG), so a supervisor that is
// killed leaves only files. Whoever takes the lock next, Serve or List, removes
// them.
//
// Lock order: cacheLimit.order and windows.mu, then any other; those are leaves.
package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"fsva/gofer/attach"
	"fsva/gofer/cgroup"
	"fsva/gofer/fsserver"
	"fsva/gofer/listen"
	"fsva/gofer/supervisor/goferproto"
)

// Config is a volume to serve.
type Config struct {
	Dirs Dirs
	// Info becomes volume.json.
	Info attach.Info
	// Isolation, Source and Network are shown by ls and stat; Isolation also
	// says how Server is run. Source is what the user named.
	Isolation string
	Source    string
	// Server is the FS server, or nil when the gofer serves in process.
	Server *fsserver.Spec
	// Gofer is what the gofer is told. Serve fills in Version, Volume, Listen,
	// Windows, CacheLimit and InitTimeoutMs.
	Gofer goferproto.Config
	// Listen is where guests come from. Serve binds the sockets and removes them.
	Listen []listen.Spec
	// Window says how guests' hypervisors get windows.
	Window WindowConfig
	// CacheLimit bounds the buffer cache, in bytes; 0 is DefaultCacheLimit.
	CacheLimit int64
	// Limits are those of all processes of the volume, this one included, which moves
	// into a cgroup for them.
	Limits cgroup.Limits
	// Hold makes the volume an instance that belongs to one container. It is the
	// reading end of a pipe that its starter holds until the container's sandbox has
	// attached. Once that is closed, the volume stops when it has no client. Its gofer
	// is not started again: the sandbox could not come back to it.
	Hold *os.File
	// StartTimeout bounds the time to readiness.
	StartTimeout time.Duration
	// Runsc is the runsc for isolation gvisor; when empty it is looked for (see
	// FindRunsc). Platform is its --platform, default systrap.
	Runsc    string
	Platform string
	// RunscDebugLog is runsc's --debug-log, none when empty.
	RunscDebugLog string
	// Signals ask to stop; a second one to stop hard.
	Signals <-chan os.Signal
	// Ready is called once, when sandboxes can attach.
	Ready func(volumeDir string)
	// Log is where the supervisor and its children log. Before readiness
	// nothing is logged above debug level: what a failure needs is in the error.
	Log *slog.Logger
}

// Isolations.
const (
	IsolationGVisor  = fsserver.IsolationGVisor
	IsolationProcess = fsserver.IsolationProcess
	IsolationVM      = fsserver.IsolationVM
	IsolationNone    = "none"
)

// DefaultStartTimeout is Config.StartTimeout when it is not set.
const DefaultStartTimeout = 30 * time.Second

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// CheckName reports why name cannot be a volume's.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("volume name %.80q: want 1 to 63 letters, digits, '_', '.' or '-', beginning with a letter or digit", name)
	}
	return nil
}

// ErrUnknownVolume is wrapped by errors for volumes that nobody serves.
var ErrUnknownVolume = errors.New("no such volume is being served (see fsva ls)")

func unknownVolume(name string) error {
	return fmt.Errorf("volume %q: %w", name, ErrUnknownVolume)
}

// Dirs are the directories that all volumes of a machine share. Both are
// absolute.
type Dirs struct {
	Run   string // FSVA_RUNDIR
	State string // FSVA_STATEDIR
}

// DirsFromEnv are the directories that the environment names, or the defaults.
func DirsFromEnv() (Dirs, error) {
	d := Dirs{Run: "/run/fsva", State: "/var/lib/fsva"}
	for name, p := range map[string]*string{"FSVA_RUNDIR": &d.Run, "FSVA_STATEDIR": &d.State} {
		if v := os.Getenv(name); v != "" {
			abs, err := filepath.Abs(v)
			if err != nil {
				return Dirs{}, fmt.Errorf("%s: %w", name, err)
			}
			*p = abs
		}
	}
	return d, nil
}

// Volume is the directory that containers mount.
func (d Dirs) Volume(name string) string { return filepath.Join(d.Run, "volumes", name) }

// VolumeState is where appliances that keep data between runs put a volume's.
func (d Dirs) VolumeState(name string) string { return filepath.Join(d.State, "volumes", name) }

func (d Dirs) control() string            { return filepath.Join(d.Run, "control") }
func (d Dirs) locks() string              { return filepath.Join(d.Run, "locks") }
func (d Dirs) lock(name string) string    { return filepath.Join(d.locks(), name) }
func (d Dirs) private(name string) string { return filepath.Join(d.Run, "private", name) }
func (d Dirs) runsc() string              { return filepath.Join(d.Run, "runsc") }

// runscRoot is the --root of the runsc that runs a volume's FS server: one of
// its own, which can be removed as a whole.
func (d Dirs) runscRoot(name string) string { return filepath.Join(d.runsc(), name) }

// controlSocket is the name of a volume's socket in control.
func controlSocket(name string) string { return name + ".sock" }

// containerID is the FS server's name in runsc's state.
func containerID(name string) string { return "fsva-" + name }

// create makes the directories. Those that lead to volumes can be entered by
// all, because runsc may look from another user's view; the rest is root's.
func (d Dirs) create() error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		{d.Run, 0o755}, {filepath.Join(d.Run, "volumes"), 0o755},
		{d.control(), 0o700}, {d.locks(), 0o700},
		{filepath.Join(d.Run, "private"), 0o700}, {d.runsc(), 0o700},
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("volume directory not writable: %w (FSVA_RUNDIR chooses another one)", err)
		}
	}
	return nil
}
