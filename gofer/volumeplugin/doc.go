// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package volumeplugin speaks docker's volume plugin protocol, version 1, so that
// `docker volume create -d fsva` defines volumes and `docker run -v NAME:/data` has
// them served for as long as containers use them.
//
// The peer is dockerd, which is root: it is trusted, but nothing that it says is
// taken for well-formed. Volumes are processes of their own; they outlive the plugin
// and dockerd. What docker has mounted is kept in files below RUNDIR, one for each
// volume, so that a plugin that is started again goes on where the last one was:
//
//	RUNDIR/plugin/lock              locked by the plugin for as long as it lives
//	RUNDIR/plugin/mounts/NAME.json  who has the volume mounted, and whether the plugin started it
//	RUNDIR/plugin/sockets/NAME      where `fsva mount` reaches a volume that is mounted on the host
//	RUNDIR/plugin/host/NAME/        and where that is
//
// RUNDIR does not outlive a boot, and neither do mounts.
//
// One operation at a time runs on a volume; operations on others run beside it.
package volumeplugin
