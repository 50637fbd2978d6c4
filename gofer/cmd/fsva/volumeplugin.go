// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/supervisor"
	"fsva/gofer/volume"
	"fsva/gofer/volumeplugin"
)

// newVolumePluginCommand is `fsva volume-plugin`.
func newVolumePluginCommand() *cobra.Command {
	var socket string
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "volume-plugin [flags]",
		Short: "be docker's volume driver fsva, until stopped",
		Long: `volume-plugin answers docker, so that docker defines volumes and has them served for
as long as containers use them:

  docker volume create -d fsva -o appliance=squashfs -o source=/srv/photos.squashfs photos
  docker run --runtime=runsc -v photos:/data …

Options are named like the flags of fsva volume create; the others are the appliance's
own. runc=true mounts the volume on the host as well, for containers of other runtimes.

It listens on the socket that systemd passes, else on --socket; the socket's name
there is that of the driver. Volumes go on when it stops; started again, it knows who
uses them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, _, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return usageError{err}
			}
			dirs, err := supervisor.DirsFromEnv()
			if err != nil {
				return err
			}
			l, err := volumeplugin.Inherited()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
			defer stop()
			p, err := volumeplugin.New(ctx, volumeplugin.Config{
				Dirs: dirs, Definitions: volume.Open(dirs.State), Processes: volumeplugin.System{Dirs: dirs}, Log: log,
			})
			if err != nil {
				return err
			}
			defer p.Close()
			if l == nil {
				if l, err = volumeplugin.Listen(socket); err != nil {
					return fmt.Errorf("--socket: %w", err)
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "fsva: docker volume plugin ready at %s\n", l.Addr())
			if err := supervisor.Notify("READY=1"); err != nil {
				log.Warn("the service manager does not know that it is ready", "err", err)
			}
			return p.Serve(ctx, l)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", volumeplugin.DefaultSocket, "`path` of the socket, where docker looks for plugins")
	logs.add(cmd.Flags())
	return cmd
}
