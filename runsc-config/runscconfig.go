// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package runscconfig registers our runsc with docker and containerd, and takes
// it out again.
//
// Configuration files belong to the machine's administrator. Install adds one
// runtime and changes nothing that is there; Uninstall removes that runtime and
// nothing else, whatever was changed around it since. Both work on the text of a
// file, so that comments, order and indentation stay, and both read the result
// again before they offer it: it must say what it said before and the one
// runtime more or less. A Plan is made first and shown as a diff, then applied.
//
// What was added is remembered in a record below the state directory. It
// tells a runtime of ours from somebody else's of the same name, and a file
// that we created from one that we found.
//
// The files are trusted to be what an administrator wrote: they may be wrong,
// and are then left alone, but they are not attacks.
package runscconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A Target is a program that learns of our runsc.
type Target string

// The targets.
const (
	Docker     Target = "docker"
	Containerd Target = "containerd"
)

// Targets are all targets.
var Targets = []Target{Docker, Containerd}

// ErrNotInstalled is returned, wrapped, by Uninstall when there is nothing to
// remove.
var ErrNotInstalled = errors.New("is not registered")

// Options are what Install and Uninstall need to know.
type Options struct {
	// Prefix is a directory that stands for the root of the machine whose files
	// are changed; "" is this machine. All paths below are as that machine
	// sees them.
	Prefix string
	// ConfigFile is the target's configuration file, "" for the usual one.
	ConfigFile string
	// Runtime is the runtime's name, "" for "runsc".
	Runtime string
	// Runsc is our runsc, an absolute path. The shim of containerd stands beside it.
	Runsc string
	// StateDir is where records are kept, an absolute path.
	StateDir string
}

// DefaultRuntime is the name of the runtime, if none is given.
const DefaultRuntime = "runsc"

// shimName is the name of containerd's shim, beside runsc.
const shimName = "containerd-shim-runsc-v1"

// target is what differs between docker and containerd.
type target struct {
	configFile string
	// service says how the daemon learns of a change.
	service string
	install func(*job) error
	// uninstall reports whether there was something to remove.
	uninstall func(*job) (bool, error)
	// registered returns the runtimes in a configuration file that are ours.
	registered func(*job, []byte) ([]string, error)
}

var targets = map[Target]target{
	Docker: {
		configFile: "/etc/docker/daemon.json",
		service:    "systemctl reload docker",
		install:    installDocker, uninstall: uninstallDocker, registered: registeredDocker,
	},
	Containerd: {
		configFile: "/etc/containerd/config.toml",
		service:    "systemctl restart containerd",
		install:    installContainerd, uninstall: uninstallContainerd, registered: registeredContainerd,
	},
}

// job is one Install or Uninstall.
type job struct {
	Options
	target Target
	record *record // what an earlier Install left, or nil
	plan   *Plan
	// addedParent says that Install makes the table of runtimes.
	addedParent bool
}

// runtimeName is the form of names that both targets accept.
var runtimeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// reserved are names that the targets have a meaning for.
var reserved = map[string]bool{"runc": true, "crun": true, "io.containerd.runc.v2": true}

func newJob(t Target, o Options) (*job, error) {
	what, ok := targets[t]
	if !ok {
		return nil, fmt.Errorf("cannot configure %q: it is none of docker and containerd", t)
	}
	if o.Runtime == "" {
		o.Runtime = DefaultRuntime
	}
	if !runtimeName.MatchString(o.Runtime) || reserved[o.Runtime] {
		return nil, fmt.Errorf("%q cannot be the name of our runtime: letters, digits, '_', '.' and '-', and not a name with another meaning", o.Runtime)
	}
	if o.ConfigFile == "" {
		o.ConfigFile = what.configFile
	}
	for name, path := range map[string]string{"configuration file": o.ConfigFile, "runsc": o.Runsc, "state directory": o.StateDir} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("the path of the %s, %q, is not absolute", name, path)
		}
	}
	if o.Prefix != "" {
		var err error
		if o.Prefix, err = filepath.Abs(o.Prefix); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
		if o.Prefix == "/" {
			o.Prefix = ""
		}
	}
	if o.Prefix != "" {
		if fi, err := os.Stat(o.Prefix); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		} else if !fi.IsDir() {
			return nil, fmt.Errorf("prefix: %s is not a directory", o.Prefix)
		}
	}
	j := &job{Options: o, target: t, plan: &Plan{prefix: o.Prefix}}
	if o.Prefix == "" {
		j.plan.Service = what.service
	}
	var err error
	if j.record, err = readRecord(j.onDisk(j.recordFile())); err != nil {
		return nil, err
	}
	return j, nil
}

// onDisk is where this process finds path.
func (j *job) onDisk(path string) string { return filepath.Join(j.Prefix, path) }

func (j *job) recordFile() string {
	name := string(j.target) + "-" + j.Runtime
	if j.ConfigFile != targets[j.target].configFile {
		sum := sha256.Sum256([]byte(j.ConfigFile))
		name += "-" + hex.EncodeToString(sum[:6])
	}
	return filepath.Join(j.StateDir, "install", name+".json")
}

// Binaries are the programs that t needs for runsc, which is an absolute path.
func Binaries(t Target, runsc string) []string {
	if t == Containerd {
		return []string{runsc, filepath.Join(filepath.Dir(runsc), shimName)}
	}
	return []string{runsc}
}

func (j *job) shim() string { return filepath.Join(filepath.Dir(j.Runsc), shimName) }

// Install returns the changes that register o's runsc with t. They are none if
// that has been done before. It fails, and nothing has been changed, if the
// target has another runtime of that name or a file that it would not accept.
func Install(t Target, o Options) (*Plan, error) {
	j, err := newJob(t, o)
	if err != nil {
		return nil, err
	}
	if j.record != nil && j.record.Runsc != j.Runsc {
		return nil, fmt.Errorf("runtime %q is registered with %s already, as %s: first run: %s", j.Runtime, t,
			j.record.Runsc, j.command("uninstall"))
	}
	if err := targets[t].install(j); err != nil {
		return nil, err
	}
	if len(j.plan.Changes) == 0 {
		return j.plan, nil
	}
	r := record{Target: t, Runtime: j.Runtime, Runsc: j.Runsc, ConfigFile: j.ConfigFile}
	if j.record != nil {
		r.Files = j.record.Files
	}
	for _, c := range j.plan.Changes {
		// A file that was written by an earlier Install and lost its runtime
		// since is now a file that we found.
		r.set(c.Path, recordedFile{Created: c.Before == nil, Written: digest(c.After), Found: digest(c.Before),
			AddedParent: c.Path == j.ConfigFile && j.addedParent})
	}
	return j.plan, j.addRecord(&r)
}

// Uninstall returns the changes that undo Install. The error wraps
// ErrNotInstalled if there are none.
func Uninstall(t Target, o Options) (*Plan, error) {
	j, err := newJob(t, o)
	if err != nil {
		return nil, err
	}
	if j.record != nil {
		// What was installed counts, not what would be today.
		j.Runsc = j.record.Runsc
	}
	found, err := targets[t].uninstall(j)
	if err != nil {
		return nil, err
	}
	if !found && j.record == nil {
		return nil, fmt.Errorf("runtime %q %w with %s (%s)", j.Runtime, ErrNotInstalled, t, j.ConfigFile)
	}
	return j.plan, j.addRecord(nil)
}

// command is a command line for messages.
func (j *job) command(verb string) string {
	words := []string{"fsva", verb, string(j.target)}
	if j.Runtime != DefaultRuntime {
		words = append(words, "--runtime", j.Runtime)
	}
	if j.Prefix != "" {
		words = append(words, "--prefix", j.Prefix)
	}
	return strings.Join(words, " ")
}

// conflict is the error for a runtime that is not ours.
func (j *job) conflict() error {
	return fmt.Errorf("it has a runtime %q that is not %s; it stays as it is: choose another name with --runtime", j.Runtime, j.Runsc)
}

// edit plans that the file at path gets the content that change returns, given
// what it has now, nil if it does not exist. nil from change removes it.
func (j *job) edit(path string, change func(before []byte) ([]byte, error)) error {
	c, err := readChange(j.Prefix, path)
	if err != nil {
		return err
	}
	if c.After, err = change(c.Before); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if c.Before == nil && c.After == nil || c.Before != nil && c.After != nil && string(c.Before) == string(c.After) {
		return nil
	}
	if c.mode&0o222 == 0 && c.Before != nil {
		return fmt.Errorf("%s: it is read-only (mode %#o), so something else manages it: change it there, or chmod u+w it", c.file, c.mode)
	}
	if r, ok := j.record.get(path); ok && digest(c.Before) == r.Written {
		c.ours = true
	}
	j.plan.Changes = append(j.plan.Changes, c)
	return nil
}

// restore plans that Install's change of the file at path is undone: in full,
// if nothing else has changed in it since, and with remove otherwise.
func (j *job) restore(path string, remove func(before []byte, r recordedFile) ([]byte, error)) error {
	r, _ := j.record.get(path)
	return j.edit(path, func(before []byte) ([]byte, error) {
		if before == nil {
			return nil, nil
		}
		if r.Written != "" && digest(before) == r.Written {
			if r.Created {
				return nil, nil
			}
			if original, backup, err := j.original(path, r); err != nil {
				return nil, err
			} else if original != nil {
				j.plan.obsolete = append(j.plan.obsolete, backup)
				return original, nil
			}
		}
		return remove(before, r)
	})
}

// original returns the content that Install found in the file at path, and the
// backup that has it; nil if no backup has.
func (j *job) original(path string, r recordedFile) (content []byte, backup string, err error) {
	file, err := resolve(j.Prefix, path)
	if err != nil {
		return nil, "", err
	}
	for i := range maxBackups {
		backup := backupName(file, i)
		content, err := os.ReadFile(backup)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		if digest(content) == r.Found {
			return content, backup, nil
		}
	}
	return nil, "", nil
}

// record is what Install has done, on disk as JSON.
type record struct {
	Target     Target                  `json:"target"`
	Runtime    string                  `json:"runtime"`
	Runsc      string                  `json:"runsc"`
	ConfigFile string                  `json:"configFile"`
	Files      map[string]recordedFile `json:"files"`
}

// recordedFile is a file that Install has written.
type recordedFile struct {
	Created bool   `json:"created"` // it did not exist
	Found   string `json:"found"`   // digest of what it had, "" if created
	Written string `json:"written"` // digest of what Install wrote
	// AddedParent says that Install had to make the table of runtimes.
	AddedParent bool `json:"addedParent"`
}

func (r *record) set(path string, f recordedFile) {
	if r.Files == nil {
		r.Files = make(map[string]recordedFile)
	}
	r.Files[path] = f
}

// get is safe on a nil record.
func (r *record) get(path string) (recordedFile, bool) {
	if r == nil {
		return recordedFile{}, false
	}
	f, ok := r.Files[path]
	return f, ok
}

func readRecord(file string) (*record, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w (the record of an earlier fsva install; without it, what was installed is known by its path only)", file, err)
	}
	return r, nil
}

// addRecord plans that r becomes the record, or that there is none.
func (j *job) addRecord(r *record) error {
	c, err := readChange(j.Prefix, j.recordFile())
	if err != nil {
		return err
	}
	c.ours = true
	if r != nil {
		if c.After, err = json.MarshalIndent(r, "", "  "); err != nil {
			return err
		}
		c.After = append(c.After, '\n')
	}
	j.plan.record = c
	return nil
}

// digest names a content; that of no file is "".
func digest(content []byte) string {
	if content == nil {
		return ""
	}
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Registered returns the names of the runtimes with which t's configuration
// file names o's runsc, whoever wrote it; none if there is no such file. o needs
// no state directory and no runtime.
func Registered(t Target, o Options) ([]string, error) {
	o.Runtime, o.StateDir = "", "/"
	j, err := newJob(t, o)
	if err != nil {
		return nil, err
	}
	c, err := readChange(j.Prefix, j.ConfigFile)
	if err != nil || c.Before == nil {
		return nil, err
	}
	names, err := targets[t].registered(j, c.Before)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.ConfigFile, err)
	}
	slices.Sort(names)
	return names, nil
}
