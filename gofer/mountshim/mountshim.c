//go:build ignore
// (The Go tool must not take this file for cgo's; it is built by build.sh.)
//
// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

/*
 * libfsvamount.so is preloaded into an FS server (LD_PRELOAD), which runs without CAP_SYS_ADMIN and has inherited the FUSE
 * channel, for either of two reasons.
 *
 * It calls mount(2) itself (ntfs-3g, mergerfs, exfat-fuse): it opens /dev/fuse as descriptor N and mounts a file system of
 * type fuse with the data "fd=N,...". Here that mount puts the channel in N's place and succeeds; any other mount goes to
 * the kernel. Unmounting the same place succeeds and does nothing: the channel ends when the server closes it. A server on
 * libfuse also stays in the foreground, whatever its options, and one that asks for file attributes gets those of now.
 *
 * It handles one request at a time, and many small ones are to come: with FSVA_BATCH set, the requests that wait are taken
 * from the channel in one system call, and their replies returned in one. System calls are what a request costs most in
 * gVisor.
 *
 * The server is not trusted and may ignore this library; it only gets what it had inherited anyway.
 *
 * Environment: FSVA_CHANNEL_FD, the channel's descriptor (100 when not set); FSVA_MOUNTPOINT, a place whose unmount
 * succeeds in processes that did not mount it themselves; FSVA_BATCH, see above.
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
#define NR_READ 0
#define NR_WRITEV 20
#define NR_RECVMMSG 299
#define NR_SENDMMSG 307
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

static void *this_thread(void)
{
	void *thread;

	__asm__("mov %%fs:0, %0" : "=r"(thread));
	return thread;
}
#elif defined(__aarch64__)
#define NR_READ 63
#define NR_WRITEV 66
#define NR_RECVMMSG 243
#define NR_SENDMMSG 269
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

static void *this_thread(void)
{
	void *thread;

	__asm__("mrs %0, tpidr_el0" : "=r"(thread));
	return thread;
}
#else
#error "libfsvamount.so: only x86-64 and arm64 are known"
#endif

#define EINTR 4
#define EBADF 9
#define EAGAIN 11
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
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

static long result(long r)
{
	if (r >= 0)
		return r;
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

static int inherited_channel(void)
{
	const char *text = getenv_("FSVA_CHANNEL_FD=");

	return text ? number(text) : DEFAULT_CHANNEL;
}

/* The descriptor of the channel when requests are taken several at a time, else -1. */
static int batched = -1;

__attribute__((constructor)) static void start(void)
{
	if (getenv_("FSVA_BATCH="))
		batched = inherited_channel();
}

/* Puts the channel in the place of descriptor device, which keeps its close-on-exec flag. */
static long take_channel(int device)
{
	int channel = inherited_channel();
	long flags;

	if (channel < 0)
		return -EBADF;
	flags = syscall5(NR_FCNTL, device, F_GETFD, 0, 0, 0);
	if (flags < 0)
		return flags;
	if (batched >= 0)
		batched = device;
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
		return (int)result(syscall5(NR_MOUNT, (long)source, (long)target, (long)type, (long)flags, (long)data));
	r = take_channel(device);
	if (r < 0)
		return (int)result(r);
	for (i = 0; target && target[i] && i < sizeof(mounted) - 1; i++)
		mounted[i] = target[i];
	mounted[i] = '\0';
	return 0;
}

EXPORT int umount2(const char *target, int flags)
{
	if (same_path(target, mounted) || same_path(target, getenv_("FSVA_MOUNTPOINT=")))
		return 0;
	return (int)result(syscall5(NR_UMOUNT2, (long)target, flags, 0, 0, 0));
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
	return (int)result(syscall5(NR_STATX, dirfd, (long)path, flags & ~AT_STATX_DONT_SYNC, mask, (long)buf));
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

/*
 * Requests and replies, several at a time. One thread does that, the first one that reads from the channel: others take
 * requests one by one, and their replies are sent at once. What it has taken and not yet handled waits as it would in the
 * channel.
 */
#define BATCH 8
/* libfuse reads 1 MiB and a page; a server that wants more is not batched. */
#define MAX_REQUEST ((1 << 20) + (64 << 10))
/* A longer reply is sent at once, from where it is. */
#define MAX_REPLY (16 << 10)

struct iovec {
	void *base;
	unsigned long len;
};

/* struct mmsghdr of a 64-bit Linux. */
struct message {
	void *name;
	unsigned int name_len;
	struct iovec *iov;
	unsigned long iov_len;
	void *control;
	unsigned long control_len;
	int flags;
	unsigned int len __attribute__((aligned(8))); /* after the padding of struct msghdr */
};

static void *owner; /* the thread that all of this belongs to */
static char requests[BATCH][MAX_REQUEST];
static unsigned long request_len[BATCH];
static long received, taken; /* how many requests there are, and how many of them the server has */
static char replies[BATCH][MAX_REPLY];
static unsigned long reply_len[BATCH];
static long waiting; /* how many replies there are */

static void copy(char *to, const char *from, unsigned long n)
{
	typedef unsigned long word __attribute__((may_alias, aligned(1)));

	/* The barriers keep the compiler from calling memcpy. */
	for (; n >= sizeof(word); n -= sizeof(word), to += sizeof(word), from += sizeof(word)) {
		*(word *)to = *(const word *)from;
		__asm__ volatile("" : : : "memory");
	}
	for (; n > 0; n--) {
		*to++ = *from++;
		__asm__ volatile("" : : : "memory");
	}
}

static int is_owner(void)
{
	void *nobody = 0, *self = this_thread();

	return __atomic_load_n(&owner, __ATOMIC_RELAXED) == self ||
	       __atomic_compare_exchange_n(&owner, &nobody, self, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Returns what the server would have called; a null pointer if there is no way to find it. */
static void *next_function(const char *name)
{
	extern void *dlsym(void *handle, const char *name) __attribute__((weak));

	return &dlsym ? dlsym((void *)-1 /* RTLD_NEXT */, name) : 0;
}

/* Sends the replies that wait. It fails only when the channel has ended, which the next read says. */
static void send_replies(void)
{
	struct message messages[BATCH] = {0};
	struct iovec parts[BATCH];
	long sent, i;

	for (i = 0; i < waiting; i++) {
		parts[i] = (struct iovec){replies[i], reply_len[i]};
		messages[i].iov = &parts[i];
		messages[i].iov_len = 1;
	}
	for (i = 0; i < waiting; i += sent) {
		sent = syscall5(NR_SENDMMSG, batched, (long)&messages[i], waiting - i, MSG_NOSIGNAL, 0);
		if (sent == -EINTR)
			sent = 0;
		else if (sent <= 0)
			break;
	}
	waiting = 0;
}

/* A server that ends by itself has nothing left to say. */
__attribute__((destructor)) static void end(void)
{
	if (waiting > 0 && is_owner())
		send_replies();
}

/* Takes the requests that the channel has, each of at most size bytes. */
static long receive_requests(unsigned long size)
{
	struct message messages[BATCH] = {0};
	struct iovec parts[BATCH];
	long n, i;

	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){requests[i], size};
		messages[i].iov = &parts[i];
		messages[i].iov_len = 1;
	}
	n = syscall5(NR_RECVMMSG, batched, (long)messages, BATCH, MSG_DONTWAIT, 0);
	taken = 0;
	received = n > 0 ? n : 0;
	for (i = 0; i < received; i++)
		request_len[i] = messages[i].len;
	return n;
}

EXPORT long read(int fd, void *buf, unsigned long size)
{
	static long (*next)(int, void *, unsigned long);
	unsigned long n;

	if (fd != batched || fd < 0) {
		if (!next)
			next = (long (*)(int, void *, unsigned long))next_function("read");
		return next ? next(fd, buf, size) : result(syscall5(NR_READ, fd, (long)buf, (long)size, 0, 0));
	}
	if (!is_owner())
		return result(syscall5(NR_READ, fd, (long)buf, (long)size, 0, 0));
	if (taken == received) {
		if (waiting > 0)
			send_replies();
		/* Without a request to take, and in case of doubt, it is read's to wait and to fail. */
		if (size > MAX_REQUEST || receive_requests(size) <= 0)
			return result(syscall5(NR_READ, fd, (long)buf, (long)size, 0, 0));
	}
	/* As with any socket of messages, a buffer that is too small gets the beginning. */
	n = request_len[taken] < size ? request_len[taken] : size;
	copy(buf, requests[taken++], n);
	return (long)n;
}

EXPORT long writev(int fd, const struct iovec *parts, int count)
{
	static long (*next)(int, const struct iovec *, int);
	unsigned long total = 0;
	char *to;
	int i;

	if (fd != batched || fd < 0) {
		if (!next)
			next = (long (*)(int, const struct iovec *, int))next_function("writev");
		return next ? next(fd, parts, count) : result(syscall5(NR_WRITEV, fd, (long)parts, count, 0, 0));
	}
	if (!is_owner())
		return result(syscall5(NR_WRITEV, fd, (long)parts, count, 0, 0));
	for (i = 0; i < count && total <= MAX_REPLY; i++)
		total = parts[i].len > MAX_REPLY ? MAX_REPLY + 1 : total + parts[i].len;
	if (total > MAX_REPLY || (waiting == 0 && taken == received)) {
		if (waiting > 0)
			send_replies();
		return result(syscall5(NR_WRITEV, fd, (long)parts, count, 0, 0));
	}
	if (waiting == BATCH)
		send_replies();
	to = replies[waiting];
	for (i = 0; i < count; i++) {
		copy(to, parts[i].base, parts[i].len);
		to += parts[i].len;
	}
	reply_len[waiting++] = total;
	if (taken == received)
		send_replies();
	return (long)total;
}
