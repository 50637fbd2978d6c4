// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// VolumeSpec is what a user asks for: `fsva serve NAME …`. Empty strings mean the appliance's own default.
type VolumeSpec struct {
	Name      string
	Source    string
	Isolation string
	Coherence string
	Network   string // NetworkNone or NetworkHost; empty is none
	Cache     string // CacheWritethrough or CacheWriteback
	ReadOnly  bool
	Options   []string // NAME=VALUE, or NAME for NAME=true
	// StateDir is the absolute host path below which this volume's state is kept from one run to the next. Only
	// appliances with Manifest.State need it.
	StateDir string
}

// Bind is a host file or directory that appears inside the FS server's root, a directory with all that is mounted below
// it.
type Bind struct {
	Host     string // absolute, without symbolic links
	Path     string // inside the root; its parent is made when it is missing
	ReadOnly bool
}

// Plan is a volume ready to be started: nothing in it needs to be checked or looked up again.
type Plan struct {
	Name      string
	Appliance string

	// InProcess is the go-fuse file system to serve, with Source and Settings, when no server is to be started. The
	// fields from Argv to Mountpoint are then empty.
	InProcess string
	// Source is the absolute host path or the remote's name; empty when the appliance has none.
	Source string
	// Settings has the value of each option that has one, by name. For a path type it is the host path.
	Settings map[string]string
	// CacheLimit is what the volume's cache may take, in bytes; 0 is the default.
	CacheLimit int64

	// Argv is the command; Argv[0] is looked up in PATH of Env, inside the root.
	Argv []string
	// Env is the whole environment, NAME=VALUE, sorted.
	Env []string
	// Binds has the source first, if it is local, then the state, then file options in the order of the manifest.
	Binds []Bind
	// Capabilities are all that the server may have, without "CAP_", sorted. Beside the manifest's own there is
	// DAC_OVERRIDE or DAC_READ_SEARCH when uid 0 could otherwise not open a file that the volume names.
	Capabilities []string
	// Make are directories on the host, below one of Binds, that must exist when the server starts (mode 0755).
	Make []string
	// StateDir is a directory on the host, one of Binds, that must exist when the server starts (mode 0700) and stays when
	// it ends. It is another one for each source, since what waits in it belongs to that source. Empty when the
	// appliance keeps nothing.
	StateDir string
	// Network says that the server shares the host's network; it has none otherwise.
	Network bool
	// Mount is how the server gets the channel, Mountpoint what it was told to mount on.
	Mount      string
	Mountpoint string
	// Root is RootHost or an absolute directory. The server sees it read-only, with RootScratch a private tmpfs. It is
	// RootImage if it was that in the manifest, and then whoever starts the server replaces it by the image's directory.
	Root string

	Isolation string
	Coherence string
	ReadOnly  bool
	// WriteBack says that writes may be acknowledged before the file system has them.
	WriteBack bool
	StableIno bool
	// NodePerName: see Manifest.
	NodePerName bool
	// ListsXattrs: see Manifest.
	ListsXattrs bool
	// ParallelDirops: see Manifest.
	ParallelDirops bool
	// Batch: see Manifest.
	Batch bool
	// MaxRead: see Manifest.
	MaxRead int
}

// Resolve checks a volume against its appliance and expands both. Errors are one line and say what to change.
func (m Manifest) Resolve(v VolumeSpec) (Plan, error) {
	p := Plan{
		Name:         v.Name,
		Appliance:    m.Name,
		InProcess:    m.InProcess,
		Settings:     map[string]string{},
		Capabilities: slices.Clone(m.Capabilities),
		Mount:        m.Mount,
		Root:         m.Root,
		ReadOnly:     m.ReadOnly || v.ReadOnly,
		StableIno:    m.StableIno,
		NodePerName:  m.NodePerName,
		ListsXattrs:  m.ListsXattrs,

		ParallelDirops: m.ParallelDirops,
		Batch:          m.Batch,
		MaxRead:        m.MaxRead,
	}
	if m.CacheLimit != "" {
		var err error
		if p.CacheLimit, err = ParseCacheLimit(m.CacheLimit); err != nil {
			return Plan{}, err
		}
	}
	if err := m.modes(v, &p); err != nil {
		return Plan{}, err
	}
	source, err := m.source(v, &p)
	if err != nil {
		return Plan{}, err
	}
	if err := m.state(v, &p); err != nil {
		return Plan{}, err
	}
	args, err := m.optionArgs(v, &p)
	if err != nil {
		return Plan{}, err
	}
	slices.Sort(p.Capabilities)
	if m.InProcess != "" {
		p.Binds = nil
		return p, nil
	}
	if m.Isolation != IsolationVM {
		if err := m.findCommand(); err != nil {
			return Plan{}, err
		}
	}
	p.Mountpoint = RootVolume
	if m.Mount == MountFD {
		p.Mountpoint = "/dev/fd/" + strconv.Itoa(ChannelFD)
	}
	p.Argv = m.argv(source, p.Mountpoint, args)
	p.Env = m.environment()
	return p, nil
}

// modes settles isolation, coherence, cache and network.
func (m *Manifest) modes(v VolumeSpec, p *Plan) error {
	p.Isolation = m.Isolation
	switch v.Isolation {
	case "", m.Isolation:
	case IsolationVM:
		return fmt.Errorf("appliance %q does not run in a virtual machine: leave --isolation or --appliance away", m.Name)
	case IsolationGVisor, IsolationProcess:
		if m.Isolation == IsolationVM {
			return fmt.Errorf("appliance %q is in a virtual machine: its isolation is vm, not %s", m.Name, v.Isolation)
		}
		if m.InProcess != "" {
			return fmt.Errorf("appliance %q runs inside the gofer: its isolation is none, not %s", m.Name, v.Isolation)
		}
		p.Isolation = v.Isolation
	case IsolationNone:
		return fmt.Errorf("appliance %q starts a server of its own: its isolation is gvisor or process, not none", m.Name)
	default:
		known := []string{IsolationGVisor, IsolationProcess}
		if m.InProcess != "" {
			known = []string{IsolationNone}
		}
		return fmt.Errorf("isolation %q is not one of %s that appliance %q can have%s", v.Isolation, list(known), m.Name, didYouMean(v.Isolation, known))
	}

	p.Coherence = m.Coherence
	switch v.Coherence {
	case "", m.Coherence:
	case CoherenceShared:
		p.Coherence = CoherenceShared
	case CoherenceExclusive:
		return fmt.Errorf("appliance %q is shared, because its files can change elsewhere: a volume cannot make it exclusive", m.Name)
	default:
		return fmt.Errorf("coherence %q is not one of %s%s", v.Coherence, list(coherences), didYouMean(v.Coherence, coherences))
	}

	can := p.Coherence == CoherenceExclusive && !p.ReadOnly
	switch v.Cache {
	case "":
		p.WriteBack = can && m.Cache == CacheWriteback
	case CacheWritethrough:
	case CacheWriteback:
		if !can {
			kind := "shared"
			if p.ReadOnly {
				kind = "read-only"
			}
			return fmt.Errorf("volume %q is %s: its cache cannot be %s", v.Name, kind, CacheWriteback)
		}
		p.WriteBack = true
	default:
		return fmt.Errorf("cache %q is not one of %s%s", v.Cache, list(caches), didYouMean(v.Cache, caches))
	}

	switch v.Network {
	case "", NetworkNone:
		if m.Network {
			return fmt.Errorf("appliance %q needs the network: add --network host", m.Name)
		}
	case NetworkHost:
		if m.InProcess != "" {
			return fmt.Errorf("appliance %q runs inside the gofer, which has no network: remove --network", m.Name)
		}
		p.Network = true
	default:
		return fmt.Errorf("network %q is neither none nor host", v.Network)
	}
	return nil
}

// state chooses the directory for what the server keeps between runs.
func (m *Manifest) state(v VolumeSpec, p *Plan) error {
	if !m.State {
		return nil
	}
	if !filepath.IsAbs(v.StateDir) {
		return fmt.Errorf("appliance %q keeps data between runs and was given no directory for it (FSVA_STATEDIR)", m.Name)
	}
	sum := sha256.Sum256([]byte(p.Source))
	p.StateDir = filepath.Join(v.StateDir, m.Name+"-"+hex.EncodeToString(sum[:8]))
	p.bind(p.StateDir, RootState, false)
	return nil
}

// optionArgs checks the volume's options, fills Settings and Binds, and returns what ${options} stands for.
func (m *Manifest) optionArgs(v VolumeSpec, p *Plan) ([]string, error) {
	settings, err := parseSettings(v.Options)
	if err != nil {
		return nil, err
	}
	values := map[string][]string{}
	for _, s := range settings {
		o, ok := m.option(s.name)
		if !ok {
			names := m.optionNames()
			if len(names) == 0 {
				return nil, fmt.Errorf("appliance %q has no options, so not %q either", m.Name, s.name)
			}
			return nil, fmt.Errorf("appliance %q has no option %q%s (it has %s)", m.Name, s.name, didYouMean(s.name, names), list(names))
		}
		if len(values[s.name]) != 0 && !o.List {
			return nil, fmt.Errorf("option %q is given twice", s.name)
		}
		values[s.name] = append(values[s.name], s.value)
	}
	var args []string
	if p.ReadOnly {
		args = append(args, m.ReadOnlyArgs...)
	} else {
		args = append(args, m.ReadWriteArgs...)
	}
	for i := range m.Options {
		o := &m.Options[i]
		given := values[o.Name]
		switch {
		case len(given) == 0 && o.Required:
			return nil, fmt.Errorf("appliance %q needs the option %q: add --option %s=%s (%s)", m.Name, o.Name, o.Name, strings.ToUpper(o.Type), o.Description)
		case len(given) == 0 && o.Default == "":
			continue
		case len(given) == 0:
			given = []string{o.Default}
		}
		a, err := o.arguments(given, p)
		if err != nil {
			return nil, fmt.Errorf("option %s of appliance %q: %w", o.Name, m.Name, err)
		}
		args = append(args, a...)
	}
	return args, nil
}

// argv is the command with its variables replaced.
func (m *Manifest) argv(source, mountpoint string, options []string) []string {
	replace := strings.NewReplacer("${source}", source, "${mountpoint}", mountpoint, "${state}", RootState)
	var argv []string
	for _, a := range m.Command {
		if a == "${options}" {
			argv = append(argv, options...)
			continue
		}
		argv = append(argv, replace.Replace(a))
	}
	return argv
}

// searchPath is where the server, and what it starts, finds programs; our helper comes first.
var searchPath = []string{RootBin, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// environment is the manifest's variables and ours, which win.
func (m *Manifest) environment() []string {
	env := map[string]string{"HOME": RootScratch, "LANG": "C.UTF-8", "TMPDIR": RootScratch}
	maps.Copy(env, m.Env)
	env["PATH"] = strings.Join(searchPath, ":")
	env["FSVA_CHANNEL_FD"] = strconv.Itoa(ChannelFD)
	if m.Mount == MountSyscall {
		env["LD_PRELOAD"] = ShimPath
		env["FSVA_MOUNTPOINT"] = RootVolume
	}
	var out []string
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// UseRoot puts a directory in the place of RootImage.
func (p *Plan) UseRoot(dir string) error {
	p.Root = dir
	if err := findCommand(p.Appliance, dir, p.Argv[0]); err != nil {
		return fmt.Errorf("%w; was its image made for another appliance? fsva image build %s", err, p.Appliance)
	}
	return nil
}

// findCommand checks that the server is there, so that the error is ours and not that of an exec inside a sandbox.
func (m *Manifest) findCommand() error {
	switch m.Root {
	case RootImage:
		return nil // not known yet; see Plan.UseRoot
	case RootHost:
		err := findCommand(m.Name, "/", m.Command[0])
		if errors.Is(err, errNoCommand) {
			hint := ""
			if m.Package != "" {
				hint = ": apt-get install " + m.Package
			}
			return fmt.Errorf("server of appliance %q: %s is not installed%s", m.Name, m.Command[0], hint)
		}
		return err
	}
	return findCommand(m.Name, m.Root, m.Command[0])
}

var errNoCommand = errors.New("is not in its root")

// findCommand looks for a server's program in a root.
func findCommand(appliance, root, program string) error {
	if info, err := os.Stat(root); err != nil {
		return fmt.Errorf("root of appliance %q: %s: %w", appliance, root, plainCause(err))
	} else if !info.IsDir() {
		return fmt.Errorf("root of appliance %q: %s is not a directory", appliance, root)
	}
	places := []string{program}
	if !strings.Contains(program, "/") {
		places = nil
		for _, dir := range searchPath[1:] {
			places = append(places, filepath.Join(dir, program))
		}
	}
	for _, place := range places {
		// A symbolic link is taken as present: inside another root it can only be followed there.
		info, err := os.Lstat(filepath.Join(root, place))
		if err == nil && !info.IsDir() {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("server of appliance %q: %w", appliance, err)
		}
	}
	return fmt.Errorf("server of appliance %q: %s %w %s", appliance, program, errNoCommand, root)
}

func (p *Plan) bind(host, path string, readOnly bool) {
	p.Binds = append(p.Binds, Bind{Host: host, Path: path, ReadOnly: readOnly})
}

// capability adds one, once; DAC_OVERRIDE includes DAC_READ_SEARCH.
func (p *Plan) capability(name string) {
	if slices.Contains(p.Capabilities, name) || (name == "DAC_READ_SEARCH" && slices.Contains(p.Capabilities, "DAC_OVERRIDE")) {
		return
	}
	p.Capabilities = append(p.Capabilities, name)
}
