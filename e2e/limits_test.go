//go:build e2e

package e2e

// limit is what a server cannot do, by case, each with its reason. A case that is not here must pass on both sides, and
// a case that is here must fail: a new failure, and a limit that is gone, are both a change of this file.
type limit struct {
	both    map[string]string // fails on the kernel and in the sandbox: the server's own limit
	sandbox map[string]string // fails in the sandbox only
	native  map[string]string // fails on the kernel only
	either  map[string]string // races; any outcome on either side
}

// caseLimits are the cases that fail on the host's own tmpfs: what they expect is wrong. TestControl/host verifies each.
var caseLimits = map[string]string{
	"posix/FcntlFlockLocksFile": "expects fcntl locks of one process to exclude each other; go-fuse skips it too",
}

// sentryLimits are the cases that fail in stock runsc on a bind mount of a tmpfs, without any code of ours: the sentry
// does not pass them on, or changes what the file system says. TestControl/stock-runsc verifies each.
var sentryLimits = map[string]string{
	"posix/FallocateKeepSize": "gVisor has no fallocate modes: EOPNOTSUPP",
	"posix/FstatDeleted":      "the sentry reports a link count of 1 where the file system says 0",
	"posix/NlinkZero":         "the sentry reports a link count of 1 where the file system says 0",
	"posix/Tmpfile":           "gVisor has no O_TMPFILE on a gofer's mounts",
}

var limits = map[string]limit{
	"squashfs": {native: map[string]string{
		"readonly/chmod":  "the kernel asks the server, which says ENOSYS; the sentry knows that the volume is read-only",
		"readonly/mkdir":  "likewise",
		"readonly/rename": "likewise",
		"readonly/unlink": "likewise",
	}},
}
