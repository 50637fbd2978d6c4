// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import "maps"

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

// sharedLimits are those of shared volumes: a sentry maps a file in that mode only through a descriptor, and none is given
// for a file that is open for writing (docs/limits.md).
var sharedLimits = map[string]string{
	"mmap/shared-write": "ENODEV",
}

// openDir is a limit of libfuse's high-level interface under a kernel: it finds files by path.
var openDir = map[string]string{"posix/RenameOpenDir": "the kernel asks for the replaced directory by path; the sentry remembers it"}

var noRenameFlags = map[string]string{
	"dir/rename-exchange":  "the server knows no rename flags",
	"dir/rename-noreplace": "the server knows no rename flags",
}

var rcloneLimits = limit{
	both: merged(noRenameFlags, map[string]string{
		"attr/chmod":             "rclone keeps no modes",
		"attr/chmod-descriptor":  "rclone keeps no modes",
		"attr/chown":             "rclone keeps no owners",
		"attr/times":             "rclone keeps no access times",
		"attr/umask":             "rclone keeps no modes",
		"attr/xattr":             "rclone has no extended attributes, and says EIO",
		"dir/rename":             "rclone cannot rename a directory with files to be uploaded, nor over another",
		"exec/copy-of-self":      "rclone keeps no modes: nothing is executable",
		"file/truncate":          "rclone cannot truncate a closed file before its upload (images/rclone)",
		"limit/long-names":       "rclone has no symbolic links",
		"link/hard":              "rclone has no hard links",
		"link/hard-count":        "rclone has no hard links",
		"link/symbolic":          "rclone has no symbolic links",
		"link/symbolic-loop":     "rclone has no symbolic links",
		"owner/of-new-files":     "rclone keeps no owners and has no symbolic links",
		"owner/refuses-others":   "rclone keeps no modes: everything is readable",
		"posix/Fallocate":        "rclone has no fallocate",
		"posix/FileBasic":        "rclone keeps no modes",
		"posix/Link":             "rclone has no hard links",
		"posix/LinkUnlinkRename": "rclone has no hard links",
		"posix/OpenAt":           "rclone cannot open a file for reading and create it",
		"posix/OpenSymlinkRace":  "rclone has no symbolic links",
		"posix/RenameOpenDir":    "rclone cannot rename over a directory",
		"posix/SetattrSymlink":   "rclone has no symbolic links",
		"posix/SymlinkReadlink":  "rclone has no symbolic links",
		"posix/TruncateNoFile":   "rclone cannot truncate a closed file before its upload (images/rclone)",
		"posix/XAttr":            "rclone has no extended attributes, and says EIO",
		"posix/XAttrLarge":       "rclone has no extended attributes, and says EIO",
		"tree/exec":              "rclone keeps no modes: nothing is executable",
		"tree/stat":              "rclone keeps no modes",
	}),
	sandbox: sharedLimits,
	native: map[string]string{
		"mmap/after-close-and-unlink": "on the kernel the pages are gone with the name; the sandbox holds a copy",
		"node/fifo":                   "rclone has no fifos; the sandbox makes its own",
		"node/socket":                 "rclone has no sockets; the sandbox makes its own",
	},
	either: map[string]string{
		"dir/list-while-removing":          "rclone says EIO for a directory of which a file is just being uploaded",
		"file/rename-over-open":            "rclone has one cache file for a name; a sandbox may hold a copy",
		"posix/RenameOverwriteDestExist":   "rclone's inode numbers follow the name; whether it can rename depends on the upload",
		"posix/RenameOverwriteDestNoExist": "likewise",
	},
}

var limits = map[string]limit{
	"squashfs": {native: map[string]string{
		"readonly/chmod":  "the kernel asks the server, which says ENOSYS; the sentry knows that the volume is read-only",
		"readonly/mkdir":  "likewise",
		"readonly/rename": "likewise",
		"readonly/unlink": "likewise",
	}},
	"exfat": {
		both: merged(noRenameFlags, map[string]string{
			"attr/chmod":             "exFAT keeps no modes",
			"attr/chown":             "exFAT keeps no owners",
			"attr/umask":             "exFAT keeps no modes",
			"attr/xattr":             "exFAT has no extended attributes",
			"limit/long-names":       "exFAT has no symbolic links",
			"limit/odd-names":        "exFAT allows no control characters and none of \"*:<>?\\| in names",
			"limit/sparse-5GiB":      "exFAT has no holes, and the image no room",
			"link/hard":              "exFAT has no hard links",
			"link/hard-count":        "exFAT has no hard links",
			"link/symbolic":          "exFAT has no symbolic links",
			"link/symbolic-loop":     "exFAT has no symbolic links",
			"owner/of-new-files":     "exFAT keeps no owners",
			"owner/refuses-others":   "exFAT keeps no modes: everything is readable",
			"posix/Fallocate":        "mount.exfat-fuse has no fallocate",
			"posix/FileBasic":        "exFAT keeps no modes",
			"posix/Link":             "exFAT has no hard links",
			"posix/LinkUnlinkRename": "exFAT has no hard links",
			"posix/OpenSymlinkRace":  "exFAT has no symbolic links",
			"posix/SetattrSymlink":   "exFAT has no symbolic links",
			"posix/SymlinkReadlink":  "exFAT has no symbolic links",
			"posix/XAttr":            "exFAT has no extended attributes",
			"posix/XAttrLarge":       "exFAT has no extended attributes",
			"tree/stat":              "exFAT keeps no modes",
		}),
		native: merged(openDir, map[string]string{
			"attr/chmod-descriptor":  "exFAT keeps no modes; an exclusive sandbox has what it set",
			"attr/times-nanoseconds": "exFAT keeps hundredths of seconds; likewise",
			"exec/needs-permission":  "exFAT keeps no modes: everything is executable; likewise",
			"node/fifo":              "exFAT has no fifos; the sandbox makes its own",
			"node/socket":            "exFAT has no sockets; the sandbox makes its own",
		}),
	},
	"iso": {native: map[string]string{
		"readonly/chmod":            "the kernel asks the server, which says ENOSYS; the sentry knows that the volume is read-only",
		"readonly/create":           "likewise",
		"readonly/mkdir":            "likewise",
		"readonly/open-for-writing": "fuseiso opens files for writing, too",
		"readonly/rename":           "fuseiso says ENOSYS",
		"readonly/unlink":           "likewise",
	}},
	"mergerfs": {
		both: merged(noRenameFlags, map[string]string{
			"dir/rename": "mergerfs renames in each directory on its own, and may find the target empty there",
		}),
		native: merged(openDir, map[string]string{
			"link/hard-count": "the kernel caches the link count of each name; the gofer knows that they are one file",
		}),
		either: map[string]string{"posix/OpenSymlinkRace": "a symbolic link that is replaced while it is read"},
	},
	"fuse-overlayfs": {both: map[string]string{
		"limit/long-names": "fuse-overlayfs keeps 4 bytes of a name for itself: 251 are left",
	}},
	"ext4": {
		both: merged(noRenameFlags, map[string]string{
			"attr/xattr":       "fuse2fs ignores XATTR_CREATE and XATTR_REPLACE",
			"posix/XAttrLarge": "ext4 has one block for extended attributes",
		}),
		native: merged(openDir, map[string]string{
			"attr/times-nanoseconds": "fuse2fs keeps seconds; an exclusive sandbox has what it set",
			"limit/long-names":       "fuse2fs answers another errno to 256 bytes; the gofer answers itself",
		}),
	},
	"bindfs": {
		both: merged(noRenameFlags, map[string]string{
			"posix/Fallocate":  "bindfs has no fallocate",
			"posix/XAttrLarge": "the machine's own file system has no room for it",
		}),
		native: merged(openDir, map[string]string{
			"link/hard-count": "the kernel caches the link count of each name; the gofer knows that they are one file",
		}),
		either: map[string]string{"posix/OpenSymlinkRace": "a symbolic link that is replaced while it is read"},
	},
	"gocryptfs": {
		both: map[string]string{"posix/XAttrLarge": "the machine's own file system has no room for it"},
		sandbox: map[string]string{
			"dir/rename-noreplace": "gVisor, below gocryptfs, has no RENAME_NOREPLACE",
			"posix/Fallocate":      "gocryptfs needs fallocate's modes, which gVisor below it has not",
		},
		native: openDir,
	},
	"s3": { // s3fs 1.90 on the kernel, 1.95 in the image
		both: merged(noRenameFlags, map[string]string{
			"attr/xattr":             "s3fs ignores XATTR_REPLACE",
			"file/truncate":          "s3fs 1.95 ignores truncate(2) of a file that nobody has open; 1.90 fills it with zeros",
			"link/hard":              "S3 has no hard links",
			"link/hard-count":        "S3 has no hard links",
			"posix/Fallocate":        "s3fs has no fallocate",
			"posix/Link":             "S3 has no hard links",
			"posix/LinkUnlinkRename": "S3 has no hard links",
			"posix/RenameOpenDir":    "s3fs finds files by path",
			"posix/XAttr":            "s3fs removes an attribute that is not there without an error",
			"posix/XAttrLarge":       "the metadata of an object has 2 KiB",
		}),
		sandbox: merged(sharedLimits, map[string]string{
			"posix/TruncateNoFile": "as file/truncate; 1.90 gets the length right",
		}),
		native: map[string]string{
			"attr/chmod-descriptor":  "s3fs 1.90 forgets the mode when it uploads the file that is open",
			"file/unlink-while-open": "s3fs 1.90 has the size of an open file from the store",
			"limit/long-names":       "s3fs takes 256 bytes; the gofer answers itself",
		},
		either: map[string]string{"posix/OpenSymlinkRace": "a symbolic link that is replaced while it is read"},
	},
	"encfs": {
		both: merged(noRenameFlags, map[string]string{
			"limit/long-names": "an encrypted name is longer: 175 bytes become 255",
			"link/symbolic":    "likewise for the target of a link",
			"posix/Fallocate":  "encfs has no fallocate",
			"posix/XAttrLarge": "the machine's own file system has no room for it",
		}),
		native: merged(openDir, map[string]string{
			"attr/times-nanoseconds": "encfs keeps microseconds; an exclusive sandbox has what it set",
			"link/hard-count":        "the kernel caches the link count of each name; the gofer knows that they are one file",
			"owner/of-new-files":     "encfs creates files as root; the gofer sets the owner",
		}),
	},
	"ntfs": {
		both:   merged(noRenameFlags, map[string]string{"posix/Fallocate": "ntfs-3g has no fallocate"}),
		native: openDir,
	},
	"sshfs": {
		both: merged(noRenameFlags, map[string]string{
			"attr/chown":             "sftp changes the owner of a link's target",
			"attr/times-nanoseconds": "sftp has seconds",
			"attr/xattr":             "sftp has no extended attributes",
			"dir/rename":             "sftp's errors do not tell a directory in use",
			"link/hard-count":        "sftp does not tell the link count",
			"link/symbolic":          "Debian's sshfs refuses links that lead out of the mount",
			"owner/of-new-files":     "everything belongs to who logged in",
			"posix/Fallocate":        "sftp has no fallocate",
			"posix/Link":             "sftp does not tell the link count",
			"posix/RenameOpenDir":    "sshfs finds files by path",
			"posix/SetattrSymlink":   "sftp changes the times of a link's target",
			"posix/SymlinkReadlink":  "Debian's sshfs refuses links that lead out of the mount",
			"posix/XAttr":            "sftp has no extended attributes",
			"posix/XAttrLarge":       "sftp has no extended attributes",
			"tree/symlinks":          "Debian's sshfs refuses links that lead out of the mount",
		}),
		sandbox: sharedLimits,
		native: map[string]string{
			"limit/long-names":         "sshfs answers another errno to 256 bytes; the gofer answers itself",
			"node/fifo":                "sftp has no fifos; the sandbox makes its own",
			"node/socket":              "sftp has no sockets; the sandbox makes its own",
			"posix/DirSeek":            "sshfs changes the types in a listing between two reads",
			"posix/ReadDirConsistency": "likewise",
		},
		either: map[string]string{"posix/OpenSymlinkRace": "a symbolic link that is replaced while it is read, and refused"},
	},
	"rclone": rcloneLimits,
	"rclone-webdav": {
		both: merged(rcloneLimits.both, map[string]string{
			"attr/times-nanoseconds": "WebDAV has no way to set the time of a file",
		}),
		sandbox: rcloneLimits.sandbox, native: rcloneLimits.native, either: rcloneLimits.either,
	},
}

func merged(tables ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range tables {
		maps.Copy(all, m)
	}
	return all
}
