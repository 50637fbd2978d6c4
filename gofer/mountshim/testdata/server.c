// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

/*
 * What a FUSE server that mounts by itself does, one check a line. It prints the name of each check that fails and
 * exits 1. usage: server /dev/null-like-device other-descriptor
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed;

static void check(int ok, const char *name)
{
	if (ok)
		return;
	printf("%s (errno %d)\n", name, errno);
	failed = 1;
}

/* Says whether descriptor fd is the channel: what is written to it comes out of its other end. */
static int is_channel(int fd, int other)
{
	char buf[8] = "";

	return write(fd, "ping", 4) == 4 && read(other, buf, sizeof(buf)) == 4 && memcmp(buf, "ping", 4) == 0;
}

/* Not in every C library; st[14] is stx_mode, -100 AT_FDCWD, 0x4000 AT_STATX_DONT_SYNC and 1 STATX_TYPE. */
extern int statx(int dirfd, const char *path, int flags, unsigned int mask, void *st) __attribute__((weak));
/* libfuse's, which this program is not linked with. */
extern int fuse_daemonize(int foreground) __attribute__((weak));

int main(int argc, char **argv)
{
	char data[64];
	int device, other;
	pid_t parent = getppid();
	unsigned short st[128];

	if (argc != 3 || sscanf(argv[2], "%d", &other) != 1)
		return 2;
	device = open(argv[1], O_RDWR);
	check(device >= 0, "open the device");
	snprintf(data, sizeof(data), "allow_other,fd=%d,rootmode=40000", device);
	check(mount("image", "/volume", "fuseblk", 0, data) == 0, "mount fuse");
	check(is_channel(device, other), "the device is the channel");
	check(fcntl(device, F_GETFD) == 0, "the device is inherited");
	check(umount("/volume") == 0, "umount");
	check(umount2("/volume/", MNT_DETACH) == 0, "umount2 with a slash");
	check(umount2("/other", 0) == 0, "umount of FSVA_MOUNTPOINT");
	errno = 0;
	check(umount2("/volume2", 0) == -1 && (errno == ENOENT || errno == EPERM), "another umount reaches the kernel");

	close(device);
	device = open(argv[1], O_RDWR | O_CLOEXEC);
	snprintf(data, sizeof(data), "fd=%d", device);
	check(mount("image", "/elsewhere", "fuse.sub", 0, data) == 0, "mount fuse.sub");
	check(is_channel(device, other), "the second device is the channel");
	check(fcntl(device, F_GETFD) == FD_CLOEXEC, "the second device keeps close-on-exec");
	check(umount("/elsewhere") == 0, "umount of the second");

	check(statx && statx(-100, "/", 0x4000, 1, st) == 0 && (st[14] & 0170000) == 0040000, "statx of a directory");
	errno = 0;
	check(statx && statx(-100, "/no/such", 0, 1, st) == -1 && errno == ENOENT, "statx of a missing file");
	check(fuse_daemonize && fuse_daemonize(0) == 0 && getppid() == parent, "stay in the foreground");

	errno = 0;
	check(mount("none", "/nowhere", "tmpfs", 0, "size=1m") == -1 && (errno == ENOENT || errno == EPERM),
	      "another mount reaches the kernel");
	errno = 0;
	check(mount("none", "/nowhere", "fuse", 0, "user_id=0") == -1 && errno != 0, "fuse without fd reaches the kernel");
	errno = 0;
	check(mount("none", "/nowhere", "fuse", 0, "fd=9999") == -1 && errno == EBADF, "a closed device");
	errno = 0;
	check(mount("none", "/nowhere", "fuse", 0, "fd=3x,a=b") == -1 && errno != 0, "fd that is no number");
	return failed;
}
