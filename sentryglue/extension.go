// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package sentryglue

import (
	"errors"
	"fmt"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/cmd/sandboxsetup"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/fsgofer/extension"
	"gvisor.dev/gvisor/runsc/specutils"
)

// goferRoot is where runsc's gofer has the container's root file system and, in
// it, the sources of the bind mounts.
const goferRoot = "/root"

// attachedFlag says that an earlier incarnation of this process has handed over
// the sockets: without root's privileges the gofer executes itself again after
// PrepareGofer.
const attachedFlag = "fsva-attached"

// goferExtension hands the planned mounts of one container to the gofers of
// their volumes. gVisor calls it from one goroutine.
type goferExtension struct {
	plan     *plan
	flags    *flag.FlagSet // the gofer subcommand's
	attached bool          // attachedFlag
	sources  []string      // of the planned mounts, before PrepareGofer
}

var _ extension.Extension = (*goferExtension)(nil)

func newGoferExtension(p *plan) *goferExtension { return &goferExtension{plan: p} }

// Name implements extension.Extension.
func (*goferExtension) Name() string { return "fsva" }

// SetFlags is called by gVisor with the gofer subcommand's flags.
func (e *goferExtension) SetFlags(f *flag.FlagSet) {
	e.flags = f
	f.BoolVar(&e.attached, attachedFlag, false, "the sockets of volumes have been handed over")
}

// PrepareGofer is called by gVisor when the mounts are in place under
// goferRoot and the process has still all its capabilities. It hands over the
// socket of each planned mount and gives the mount, in ctx.Spec, the source
// and the options that the sentry needs.
func (e *goferExtension) PrepareGofer(ctx extension.GoferPrepareContext) (extension.GoferPrepareResult, error) {
	if err := e.prepare(ctx); err != nil {
		return extension.GoferPrepareResult{}, err
	}
	return extension.GoferPrepareResult{FlagOverrides: map[string]string{attachedFlag: "true"}}, nil
}

func (e *goferExtension) prepare(ctx extension.GoferPrepareContext) error {
	fds, err := e.lisafsFDs(ctx.Spec)
	if err != nil {
		return err
	}
	room, err := descriptorRoom()
	if err != nil {
		return err
	}
	for _, m := range e.plan.Mounts {
		if m.Index >= len(ctx.Spec.Mounts) || ctx.Spec.Mounts[m.Index].Destination != m.Destination {
			return m.describe(errors.New("config.json has changed while the container was created"))
		}
		got, ok := fds[m.Index]
		if !ok {
			return m.describe(errors.New("gVisor serves this mount without a gofer"))
		}
		mount := &ctx.Spec.Mounts[m.Index]
		if !e.attached {
			if err := handOver(m, got, ctx.ContainerID, room/max(e.plan.Share, 1)/len(e.plan.Mounts)); err != nil {
				return m.describe(err)
			}
			log.Infof("fsva: volume %q at %q is served by its own gofer", m.Volume, m.Destination)
		}
		e.sources = append(e.sources, mount.Source)
		mount.Source = m.HintSource
		mount.Options = append(slices.Clone(mount.Options), m.Options...)
	}
	return nil
}

// lisafsFD is the gofer's end of the sentry's connection for a mount.
type lisafsFD struct {
	fd      int
	overlay bool // writes stay in the sandbox
}

// lisafsFDs returns the descriptors of the mounts that have one, by index. The
// order of the gofer's flags is gVisor's: see Gofer.serve in runsc/cmd/gofer.go.
func (e *goferExtension) lisafsFDs(spec *specs.Spec) (map[int]lisafsFD, error) {
	if e.flags == nil {
		return nil, errors.New("gVisor gave its gofer extension no flags")
	}
	ioFlag, confFlag := e.flags.Lookup("io-fds"), e.flags.Lookup("gofer-mount-confs")
	if ioFlag == nil || confFlag == nil {
		return nil, errors.New("gVisor's gofer has no flag io-fds or gofer-mount-confs")
	}
	io, ok := ioFlag.Value.(*sandboxsetup.IntFlags)
	if !ok {
		return nil, fmt.Errorf("gVisor's flag io-fds is a %T", ioFlag.Value)
	}
	confs, ok := confFlag.Value.(*specutils.GoferMountConfFlags)
	if !ok {
		return nil, fmt.Errorf("gVisor's flag gofer-mount-confs is a %T", confFlag.Value)
	}
	return assignFDs(spec, *io, *confs)
}

// assignFDs returns which of fds belongs to which of spec's mounts.
func assignFDs(spec *specs.Spec, fds []int, confs []specutils.GoferMountConf) (map[int]lisafsFD, error) {
	mismatch := errors.New("gVisor's gofer has other mounts than the container's spec")
	if len(confs) == 0 {
		return nil, mismatch
	}
	if confs[0].ShouldUseLisafs() { // the root file system
		if len(fds) == 0 {
			return nil, mismatch
		}
		fds = fds[1:]
	}
	confs = confs[1:]
	byIndex := make(map[int]lisafsFD)
	for i, m := range spec.Mounts {
		if !specutils.HasMountConfig(m) {
			continue
		}
		if len(confs) == 0 {
			return nil, mismatch
		}
		conf := confs[0]
		confs = confs[1:]
		if !conf.ShouldUseLisafs() {
			continue
		}
		if len(fds) == 0 {
			return nil, mismatch
		}
		byIndex[i] = lisafsFD{fd: fds[0], overlay: conf.ShouldUseOverlayfs()}
		fds = fds[1:]
	}
	if len(fds) > 0 || len(confs) > 0 {
		return nil, mismatch
	}
	return byIndex, nil
}

// descriptorReserve is what a sandbox keeps of its descriptors for everything
// but file data of volumes.
const descriptorReserve = 2000

// descriptorRoom returns how many descriptors of file data this container's
// sandbox has room for: it runs under the same limit.
func descriptorRoom() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int(min(max(l.Cur, descriptorReserve)-descriptorReserve, math.MaxInt32)), nil
}

// handOver gives the descriptor to the gofer of m's volume, with room for the
// given number of descriptors of file data. In its place it
// puts the connection to that gofer, which is silent and ends with the service:
// to gVisor's gofer, a sentry that never asks for anything.
func handOver(m plannedMount, l lisafsFD, container string, room int) error {
	// As gVisor does: the image may have symbolic links on the way.
	dir, err := sandboxsetup.ResolveSymlinks(goferRoot, m.Destination)
	if err != nil {
		return fmt.Errorf("resolve symbolic links: %w", err)
	}
	conn, err := attach.Attach(dir, attach.Request{
		Container:   container,
		Destination: m.Destination,
		ReadOnly:    m.ReadOnly || l.overlay,
		Descriptors: room,
	}, l.fd)
	if errors.Is(err, attach.ErrNotRunning) {
		if _, ierr := attach.ReadInfo(dir); errors.Is(ierr, attach.ErrNotVolume) {
			return errors.New("another mount covers it")
		}
		return notRunning(m.Volume)
	}
	if errors.Is(err, unix.EACCES) {
		return errors.New("volumes work without user namespaces only, and in this container's, runsc's gofer may not connect to the volume's socket")
	}
	if err != nil {
		return err
	}
	defer unix.Close(conn)
	// No O_CLOEXEC: the gofer may execute itself.
	if err := unix.Dup3(conn, l.fd, 0); err != nil {
		return fmt.Errorf("replace the lisafs socket: %w", err)
	}
	return nil
}

// TryHandleMount implements extension.Extension: it claims the planned mounts
// with a stub. It runs under the gofer's seccomp filter.
func (e *goferExtension) TryHandleMount(_ *specs.Spec, mount *specs.Mount, mountPath string, readonly bool) (lisafs.ConnectionImpl, lisafs.ConnectionOpts, error) {
	if mount == nil { // the root file system
		return nil, lisafs.ConnectionOpts{}, nil
	}
	for _, m := range e.plan.Mounts {
		if mount.Source == m.HintSource {
			return stub{}, lisafs.ConnectionOpts{Readonly: readonly}, nil
		}
	}
	if slices.Contains(e.sources, mount.Source) {
		// PrepareGofer's change did not get here, hence not to the sentry.
		return nil, lisafs.ConnectionOpts{}, errors.New(cannotMount + "at " + mountPath + ": this version of gVisor does not let an extension change mounts")
	}
	return nil, lisafs.ConnectionOpts{}, nil
}

// SeccompRules implements extension.Extension. The stub needs nothing that the
// stock gofer does not do.
func (*goferExtension) SeccompRules() seccomp.SyscallRules { return seccomp.NewSyscallRules() }

// stub is the stock gofer's idea of a connection that is served elsewhere.
// Nothing arrives on it but its end.
type stub struct{}

var _ lisafs.ConnectionImpl = stub{}

// Mount implements lisafs.ConnectionImpl.
func (stub) Mount(*lisafs.Connection, *lisafs.Node) (*lisafs.ControlFD, lisafs.Statx, int, error) {
	return nil, lisafs.Statx{}, -1, unix.EPROTO
}

// SupportedMessages implements lisafs.ConnectionImpl; gVisor wants at least one.
func (stub) SupportedMessages() []lisafs.MID { return []lisafs.MID{lisafs.Error} }

// MaxMessageSize implements lisafs.ConnectionImpl; gVisor wants more than 0.
func (stub) MaxMessageSize() uint32 { return 4096 }
