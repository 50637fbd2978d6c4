//go:build ignore
// (The Go tool must not take this file for cgo's; it is built by build.sh.)
//
// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

/*
 * libfsvamount.so: for FUSE servers that call mount(2) themselves (ntfs-3g, mergerfs, exfat-fuse).
 *
 * It is preloaded into the FS server (LD_PRELOAD), which runs without CAP_SYS_ADMIN and has inherited the FUSE channel.
 * Such a server opens /dev/fuse as descriptor N and mounts a file system of type fuse with the data "fd=N,...". Here
 * that mount puts the channel in N's place and succeeds; any other mount goes to the kernel. Unmounting the same place
 * succeeds and does nothing: the channel ends when the server closes it. A server on libfuse also stays in the foreground,
 * whatever its options, and one that asks for file attributes gets those of now.
 *
 * The server is not trusted and may ignore this library; it only gets what it had inherited anyway.
 *
 * Environment: FSVA_CHANNEL_FD, the channel's descriptor (100 when not set); FSVA_MOUNTPOINT, a place whose unmount
 * succeeds in processes that did not mount it themselves.
 *
 * No C library is linked: system calls are made directly, and errno and environ are taken from whatever library the
 * server has, so that one file works with glibc and with musl. Built by build.sh:
 *
 *   cc -std=c11 -O2 -Wall -Wextra -Werror -fPIC -ffreestanding -fno-builtin -fno-stack-protector \
 *      -fvisibility=hidden -shared -nostdlib -Wl,-z,relro,-z,now -Wl,--build-id=none \
 *      -Wl,-soname,libfsvamount.so -o libfsvamount.so mountshim.c
 */

#define EXPORT __attribute__((visibility("default")))

#if defined(__x86_64__)
#define NR_DUP3 292
#define NR_FCNTL 72
#define NR_MOUNT 165
#define NR_UMOUNT2 166
#define NR_STATX 332

static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
#define NR_DUP3 24
#define NR_FCNTL 25
#define NR_MOUNT 40
#define NR_UMOUNT2 39
#define NR_STATX 291

static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory");
	return x0;
}
#else
#error "libfsvamount.so: only x86-64 and arm64 are known"
#endif

#define EBADF 9
#define FD_CLOEXEC 1
#define F_GETFD 1
#define O_CLOEXEC 02000000
#define AT_STATX_DONT_SYNC 0x4000
#define DEFAULT_CHANNEL 100

/* Both C libraries have these; weak, so that a server without either still starts. */
extern int *__errno_location(void) __attribute__((weak));
extern char **environ __attribute__((weak));

/* The place that this process, or the one it was forked from, mounted on. */
static char mounted[4096];

static int result(long r)
{
	if (r >= 0)
		return (int)r;
	if (__errno_location)
		*__errno_location() = (int)-r;
	return -1;
}

/* Returns what follows prefix in s, or a null pointer when s does not start with it. */
static const char *after(const char *s, const char *prefix)
{
	for (; *prefix; s++, prefix++)
		if (*s != *prefix)
			return 0;
	return s;
}

static const char *getenv_(const char *name_and_equals)
{
	if (!&environ || !environ)
		return 0;
	for (char **e = environ; *e; e++) {
		const char *value = after(*e, name_and_equals);
		if (value)
			return value;
	}
	return 0;
}

/* Reads a decimal number that ends at a comma or at the end of the text; -1 when there is none. */
static int number(const char *s)
{
	int n = 0;

	if (!s || *s < '0' || *s > '9')
		return -1;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (n > (0x7fffffff - 9) / 10)
			return -1;
		n = n * 10 + (*s - '0');
	}
	return *s == '\0' || *s == ',' ? n : -1;
}

/* Returns N of the mount option fd=N, or -1. */
static int device_in(const char *data)
{
	while (data && *data) {
		const char *value = after(data, "fd=");
		if (value)
			return number(value);
		while (*data && *data != ',')
			data++;
		if (*data == ',')
			data++;
	}
	return -1;
}

/* Says whether two paths are the same text, trailing slashes apart. */
static int same_path(const char *a, const char *b)
{
	if (!a || !b || !*a || !*b)
		return 0;
	while (*a && *a == *b) {
		a++;
		b++;
	}
	while (*a == '/')
		a++;
	while (*b == '/')
		b++;
	return !*a && !*b;
}

/* Puts the channel in the place of descriptor device, which keeps its close-on-exec flag. */
static long take_channel(int device)
{
	const char *text = getenv_("FSVA_CHANNEL_FD=");
	int channel = text ? number(text) : DEFAULT_CHANNEL;
	long flags;

	if (channel < 0)
		return -EBADF;
	flags = syscall5(NR_FCNTL, device, F_GETFD, 0, 0, 0);
	if (flags < 0)
		return flags;
	if (channel == device)
		return 0;
	return syscall5(NR_DUP3, channel, device, flags & FD_CLOEXEC ? O_CLOEXEC : 0, 0, 0);
}

EXPORT int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data)
{
	int device = type && after(type, "fuse") ? device_in(data) : -1;
	long r;
	unsigned int i;

	if (device < 0)
		return result(syscall5(NR_MOUNT, (long)source, (long)target, (long)type, (long)flags, (long)data));
	r = take_channel(device);
	if (r < 0)
		return result(r);
	for (i = 0; target && target[i] && i < sizeof(mounted) - 1; i++)
		mounted[i] = target[i];
	mounted[i] = '\0';
	return 0;
}

EXPORT int umount2(const char *target, int flags)
{
	if (same_path(target, mounted) || same_path(target, getenv_("FSVA_MOUNTPOINT=")))
		return 0;
	return result(syscall5(NR_UMOUNT2, (long)target, flags, 0, 0, 0));
}

EXPORT int umount(const char *target)
{
	return umount2(target, 0);
}

/*
 * The kernel's, less AT_STATX_DONT_SYNC: gVisor answers that with what it knew before the server's own last change, which
 * the server would then tell everybody (fuse-overlayfs).
 */
EXPORT int statx(int dirfd, const char *path, int flags, unsigned int mask, void *buf)
{
	return result(syscall5(NR_STATX, dirfd, (long)path, flags & ~AT_STATX_DONT_SYNC, mask, (long)buf));
}

/*
 * In the place of libfuse's, which would fork and end the process that the FS server was started as. A server whose
 * command line has no way to ask libfuse for the foreground stays there nevertheless (mount.exfat-fuse).
 */
EXPORT int fuse_daemonize(int foreground)
{
	(void)foreground;
	return 0;
}
