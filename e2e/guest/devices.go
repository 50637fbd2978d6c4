// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// VirtiofsDevice returns QEMU's arguments for a virtio-fs device with the back end at a socket. The tag is what the guest
// mounts.
func VirtiofsDevice(tag, socket string) []string {
	return []string{"-chardev", "socket,id=fs-" + tag + ",path=" + socket,
		"-device", "vhost-user-fs-pci,queue-size=1024,chardev=fs-" + tag + ",tag=" + tag}
}

// VsockDevice returns QEMU's arguments for a vsock device with the back end at a socket.
func VsockDevice(socket string) []string {
	return []string{"-chardev", "socket,id=vsock,path=" + socket, "-device", "vhost-user-vsock-pci,chardev=vsock"}
}

// WindowDevice returns QEMU's arguments for shared memory from the ivshmem server at a socket.
func WindowDevice(socket string) []string {
	return []string{"-chardev", "socket,id=window,path=" + socket, "-device", "ivshmem-doorbell,chardev=window"}
}

// virtiofsd is the C implementation that is part of QEMU in Debian 12.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// Virtiofsd serves a directory by QEMU's own virtiofsd until the test ends, and returns the socket. Cache is its cache
// mode: none, auto (names and attributes are valid for a second) or always.
func Virtiofsd(t testing.TB, e *harness.Env, dir, cache string) string {
	t.Helper()
	harness.NeedCommand(t, virtiofsd, "qemu-system-common")
	socket := filepath.Join(e.TempDir(t), "fs")
	s := harness.Start(t, nil, virtiofsd, "--socket-path="+socket, "-o", "source="+dir, "-o", "cache="+cache, "-o", "xattr", "-f")
	harness.Await(t, 20*time.Second, s, func() bool { _, err := os.Stat(socket); return err == nil })
	return socket
}
