// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/guest"
	"fsva/e2e/harness"
)

// TestVMExport has a file system that only a kernel can mount in an application's sandbox: an XFS image, mounted by
// Debian's kernel inside QEMU, exported from there, and used by a container of the host.
func TestVMExport(t *testing.T) {
	harness.NeedRoot(t)
	mkfs := harness.NeedCommand(t, "mkfs.xfs", "xfsprogs")
	repair := harness.NeedCommand(t, "xfs_repair", "xfsprogs")
	d := env.Docker(t)
	dir := env.TempDir(t)
	disk, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "vsock")
	if err := writeSized(disk, 512<<20); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, mkfs, "-q", disk)

	// The volume's FS server makes the socket that QEMU needs, and then waits for what is exported behind it.
	v, await := env.ServeLater(t, volumeName(t), "--appliance", "vm", "--isolation", "vm", "--start-timeout", "4m",
		"--source", "vhost-user-vsock:"+socket)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the volume makes no socket for QEMU:\n%s", v.Log())
		}
	}
	g := guest.Boot(t, env, guest.Config{
		Modules: []string{"vmw_vsock_virtio_transport", "virtio_blk", "xfs"},
		Args: append(guest.VsockDevice(socket),
			"-drive", "if=none,id=disk,format=raw,file="+disk, "-device", "virtio-blk-pci,drive=disk"),
		Files: map[string]string{"/bin/fsva": env.Binary(t, "fsva")},
	})
	g.Shell(t, "mount -t xfs /dev/vda /mnt; echo inside > /mnt/from-guest")
	export := g.Start(guest.Command{Args: []string{"fsva", "export", "/mnt", "--coherence", "exclusive", "--listen", "vsock:3782"},
		Timeout: 10 * time.Minute})
	if err := await(4 * time.Minute); err != nil {
		t.Fatal(err)
	}

	out := d.Shell(t, `cd /data
		cat from-guest
		mkdir -p a/b; echo outside > a/b/file; ln a/b/file a/hard; ln -s b/file a/soft; mv a/b/file a/b/moved
		dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\0' x > large; sync
		stat -c %h a/hard; readlink a/soft; md5sum < large | cut -c1-32`, v.Mount("/data"))
	sum := strings.Fields(harness.Must(t, "sh", "-c", `head -c 8388608 /dev/zero | tr '\0' x | md5sum`))[0]
	if want := "inside\n2\nb/file\n" + sum + "\n"; out != want {
		t.Errorf("the container says %q, want %q", out, want)
	}
	v.Stop(t)
	if got := g.Shell(t, "cat /mnt/a/b/moved; md5sum < /mnt/large | cut -c1-32"); got != "outside\n"+sum+"\n" {
		t.Errorf("on the guest's file system: %q", got)
	}
	g.Shell(t, "kill -TERM $(pidof fsva)")
	if r, err := export.Wait(); err != nil || r.Code != 0 {
		t.Errorf("fsva export: %v, exit code %d\n%s", err, r.Code, r.Stderr)
	}
	g.Shell(t, "umount /mnt")
	g.Kill(t)
	harness.Must(t, repair, "-n", disk)
}
