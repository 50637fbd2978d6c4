// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

/*
 * Preloaded into a FUSE server that asks for a mount of type fuseblk and puts itself into the background: it mounts with
 * type fuse, from a file that is no block device, and stays in the foreground. A kernel waits for ever for a fuseblk server
 * that is killed together with its mount namespace.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
	char options[4096];
	char *size;

	if (strncmp(type, "fuseblk", 7) != 0 || strlen(data) >= sizeof(options))
		return syscall(SYS_mount, source, target, type, flags, data);
	strcpy(options, data);
	size = strstr(options, ",blksize="); /* of fuseblk only */
	if (size) {
		char *rest = strchr(size + 1, ',');

		memmove(size, rest ? rest : "", strlen(rest ? rest : "") + 1);
	}
	return syscall(SYS_mount, source, target, "fuse", flags, options);
}

int fuse_daemonize(int foreground)
{
	(void)foreground;
	return 0;
}
