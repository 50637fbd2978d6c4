// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fsva/gofer/fsserver"
)

// server is the FS server child: the stage, and then what it became.
type server struct {
	*child
	// delete removes what the isolation has left of the server.
	delete func(context.Context) error
}

// status is child.status, but a stage that did not become the server speaks for
// itself.
func (s *server) status(when string) string {
	if s.cmd.ProcessState.ExitCode() == fsserver.StageFailed {
		if text, ok := strings.CutPrefix(s.out.last(1), "fsva: "); ok {
			return "start the FS server: " + text
		}
	}
	return s.child.status(when)
}

// startServer starts the stage. The channel stays the caller's.
func startServer(s *spawner, c Config, runsc string, channel *os.File, log *slog.Logger) (*server, error) {
	cfg, err := stageConfig(c, runsc)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode the FS server's configuration: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the FS server: %w", err)
	}
	defer w.Close()
	flags := fsserver.CloneFlags(c.Isolation, c.Server.HostNetwork)
	child, err := startChild(s, "FS server", "fs-server", flags, []*os.File{r, channel}, log)
	// From here on the stage has the only read end, so that a write to a stage
	// that died ends.
	r.Close()
	if err != nil {
		return nil, err
	}
	srv := &server{child: child, delete: func(context.Context) error { return nil }}
	if runsc != "" {
		srv.delete = func(ctx context.Context) error {
			return deleteSandbox(ctx, runsc, c.Dirs.runscRoot(c.Info.Name), containerID(c.Info.Name))
		}
	}
	if _, err := w.Write(b); err != nil {
		// The stage's own words are better; waiting for its end finds them.
		log.Debug("configure the FS server", "err", err)
	}
	return srv, nil
}

func stageConfig(c Config, runsc string) (fsserver.Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return fsserver.Config{}, err
	}
	private := c.Dirs.private(c.Info.Name)
	cfg := fsserver.Config{
		Spec:      *c.Server,
		Volume:    c.Info.Name,
		Isolation: c.Isolation,
		RootDir:   filepath.Join(private, privateRoot),
		BundleDir: filepath.Join(private, privateBundle),
		Hide:      []string{c.Dirs.Run, c.Dirs.State},
		Helper:    exe,
	}
	if c.Isolation == IsolationVM {
		// The server is this program, in a root that has nothing else.
		cfg.Root = cfg.BundleDir
		cfg.Binds = append(slices.Clone(cfg.Binds), fsserver.Bind{Host: exe, Target: fsserver.SelfPath, ReadOnly: true})
	}
	shim, err := Library()
	if err != nil {
		return fsserver.Config{}, err
	}
	if _, err := os.Stat(shim); err == nil {
		cfg.Shim = shim
	} else if c.Server.Preload {
		return fsserver.Config{}, fmt.Errorf("the appliance needs a library that is not there: %w (make build makes it)", err)
	}
	if runsc != "" {
		cfg.Runsc = fsserver.Runsc{
			Path: runsc, Root: c.Dirs.runscRoot(c.Info.Name), ContainerID: containerID(c.Info.Name),
			Platform: c.Platform, DebugLog: c.RunscDebugLog,
		}
		if cfg.Runsc.Platform == "" {
			cfg.Runsc.Platform = "systrap"
		}
	}
	return cfg, nil
}
