// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"fsva/gofer/attach"
	"fsva/gofer/clients"
	"fsva/gofer/fusestream"
	"fsva/gofer/inprocess"
	"fsva/gofer/listen"
	"fsva/gofer/window"
)

// ExportConfig is a directory to export.
type ExportConfig struct {
	Dir string
	// Name is what clients may ask for.
	Name     string
	ReadOnly bool
	// Coherence is attach.Exclusive if nothing but the one client changes the
	// directory, else attach.Shared.
	Coherence string
	Listen    []listen.Spec
	// Ready is called once when clients can connect.
	Ready func()
	Log   *slog.Logger
}

// Export serves a directory of this machine on streams until ctx ends: in a virtual
// machine, to a volume with isolation vm on its host. The process keeps its
// privileges; its clients get at the directory and no further. It sets the umask to
// 0.
func Export(ctx context.Context, c ExportConfig) (err error) {
	unix.Umask(0)
	raiseFileLimit(c.Log)
	dir, err := os.Stat(c.Dir)
	if err == nil && !dir.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Dir, err)
	}
	fs, err := inprocess.Open("dir", c.Dir, inprocess.Options{ReadOnly: c.ReadOnly, Shared: c.Coherence == attach.Shared, Log: c.Log})
	if err != nil {
		return fmt.Errorf("export %s: %w", c.Dir, err)
	}
	defer fs.OnUnmount()
	volume := attach.Info{Version: attach.Version, Name: c.Name, Coherence: c.Coherence, ReadOnly: c.ReadOnly}
	g := &guests{
		fs: fs, volume: volume, table: clients.New(volume, nil, c.Log), audience: &audience{}, windows: &window.Set{}, log: c.Log,
		info: fusestream.Info{ReadOnly: c.ReadOnly, Exclusive: c.Coherence == attach.Exclusive, StableIno: true, KeepsWrites: true},
	}
	defer g.serving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range c.Listen {
		f, err := l.Bind()
		if err != nil {
			return err
		}
		if path := l.SocketPath(); path != "" {
			defer func() {
				if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) && err == nil {
					err = rerr
				}
			}()
		}
		if err := g.start(ctx, l, f); err != nil {
			return err
		}
	}
	c.Ready()
	<-ctx.Done()
	g.table.Refuse()
	return nil
}
