// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

/*
 * A server that handles one request at a time, as a FUSE server does: it reads a message from descriptor 5 and returns it,
 * until the other end is closed. A message tells it what else to do by its first letter: 'n' no reply, 'l' a reply with
 * 64 KiB more, 't' let another thread, which sends "ready", handle the next message, 'x' end at once. It exits 1 when a call fails.
 * usage: batched [nosingle]; with nosingle a reply in a system call of its own fails.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHANNEL 5

static char more[64 << 10];

/* Makes the system call writev(2) fail for good. */
static int forbid_writev(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_writev, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void *handle(void *says_so)
{
	static __thread char buf[128 << 10];
	struct iovec parts[2] = {{buf, 0}, {more, 0}};
	ssize_t n;

	if (says_so && write(CHANNEL, "ready", 5) != 5)
		exit(1);
	n = read(CHANNEL, buf, sizeof(buf));
	if (n <= 0) {
		if (n < 0)
			perror("read");
		exit(n < 0);
	}
	if (buf[0] == 'x')
		exit(0);
	if (buf[0] == 't') {
		pthread_t other;

		if (pthread_create(&other, 0, handle, buf) != 0 || pthread_join(other, 0) != 0)
			exit(1);
	}
	if (buf[0] == 'n')
		return 0;
	/* In two parts, as header and data are. */
	parts[0].iov_len = (size_t)n;
	parts[1].iov_len = buf[0] == 'l' ? sizeof(more) : 0;
	if (writev(CHANNEL, parts, 2) != (ssize_t)(parts[0].iov_len + parts[1].iov_len)) {
		perror("writev");
		exit(1);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "nosingle") == 0 && !forbid_writev())
		return 2;
	for (;;)
		handle(0);
}
